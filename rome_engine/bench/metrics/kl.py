"""How far the edit moved distributions that it should not touch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from rome_engine.bench.asks import Answers, Ask, Next
from rome_engine.bench.metrics.shared import next_log_probs, untouched
from rome_engine.bench.record import Record


@dataclass(frozen=True)
class Divergence:
    """Mean over locality and neighbourhood questions of KL(before ‖ after) of the next token, in nats.

    None where there is no such question; 0 on the untouched model.
    """

    name: str = "kl@1"
    higher: bool = False
    unit: str = "nats"

    def asks(self, record: Record) -> Iterable[Ask]:
        """The next token after each question."""
        return map(Next, untouched(record))

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The mean within the record."""
        texts = untouched(record)
        if not texts:
            return None
        p, q = (next_log_probs(answers, texts) for answers in (before, after))
        possible = p != -torch.inf  # a token of probability 0 before adds nothing; NaN is not hidden
        return float((p.exp() * (p - q))[possible].sum()) / len(texts)


METRICS = (Divergence(),)
