"""Accuracy: every token of the right answer the likeliest one. Another thing than success, and never called so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rome_engine.bench.asks import Answers, Ask
from rome_engine.bench.metrics.shared import first_answers, mean
from rome_engine.bench.record import Record


@dataclass(frozen=True)
class Accuracy:
    """Share of a role's questions where every token of the first answer, teacher-forced, is the argmax.

    None where no such question has an answer.
    """

    name: str
    role: str
    higher: bool = True
    unit: str = "share"

    def asks(self, record: Record) -> Iterable[Ask]:
        """The first answers, teacher-forced."""
        return first_answers(record.of(self.role))

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The mean within the record."""
        asks = first_answers(record.of(self.role))
        return mean(all(after.forced(ask.text, ask.target).hits) for ask in asks)


METRICS = (Accuracy("ea@1", "efficacy"), Accuracy("pa@1", "paraphrase"), Accuracy("na@1", "neighbourhood"))
