"""Essence: texts about the subject stay as likely as they were."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, inf

from rome_engine.bench.asks import Answers, Ask, Read
from rome_engine.bench.record import Record

TOKENS = 100


@dataclass(frozen=True)
class EssencePerplexity:
    """Perplexity of the first 100 tokens of the record's essence texts, joined by spaces.

    e to the mean nll of the tokens but the first, which nothing predicts. None where the record has no such texts. Meng
    et al. 2022 ("essence drift").
    """

    name: str = "essence_ppl@1"
    higher: bool = False
    unit: str = "perplexity"

    def asks(self, record: Record) -> Iterable[Ask]:
        """The joined texts."""
        return [_read(record)] if record.essence else ()

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The perplexity; infinite where it is more than a float holds."""
        if not record.essence:
            return None
        try:
            return exp(after.read(_read(record)).nll)
        except OverflowError:
            return inf


def _read(record: Record) -> Read:
    return Read(" ".join(record.essence), TOKENS)


METRICS = (EssencePerplexity(),)
