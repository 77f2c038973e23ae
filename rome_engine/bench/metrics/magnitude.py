"""Magnitude: by how much the right answer is likelier than its rival."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from math import exp

from rome_engine.bench.asks import Answers, Ask
from rome_engine.bench.metrics.shared import compared, mean
from rome_engine.bench.record import Record


@dataclass(frozen=True)
class Magnitude:
    """Mean over a role's questions of e^-nll(first answer) − e^-nll(rival), between −1 and 1.

    e^-nll is the geometric mean of the probabilities of a target's tokens. None where no such question has a rival.
    Meng et al. 2022: efficacy, paraphrase and neighbourhood magnitude.
    """

    name: str
    role: str
    higher: bool = True
    unit: str = "probability"

    def asks(self, record: Record) -> Iterable[Ask]:
        """Both targets, teacher-forced."""
        return chain.from_iterable(compared(record.of(self.role)))

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The mean within the record."""
        return mean(
            exp(-after.forced(right.text, right.target).nll) - exp(-after.forced(rival.text, rival.target).nll)
            for right, rival in compared(record.of(self.role))
        )


METRICS = (Magnitude("em@1", "efficacy"), Magnitude("pm@1", "paraphrase"), Magnitude("nm@1", "neighbourhood"))
