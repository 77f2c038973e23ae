"""Locality: what the edit should not touch is answered as by the untouched model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from rome_engine.bench.asks import Answers, Ask, Next
from rome_engine.bench.metrics.shared import next_log_probs, untouched
from rome_engine.bench.record import Record


@dataclass(frozen=True)
class Locality:
    """Share of locality and neighbourhood questions whose likeliest next token is the untouched model's.

    Whether that token is right plays no part. KnowEdit compares all tokens of a given answer, teacher-forced; this
    needs no answer. None where there is no such question; 1 on the untouched model.
    """

    name: str = "locality@1"
    higher: bool = True
    unit: str = "share"

    def asks(self, record: Record) -> Iterable[Ask]:
        """The next token after each question."""
        return map(Next, untouched(record))

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The mean within the record."""
        texts = untouched(record)
        if not texts:
            return None
        likeliest = (next_log_probs(answers, texts).argmax(-1) for answers in (after, before))
        return float(torch.eq(*likeliest).double().mean())


METRICS = (Locality(),)
