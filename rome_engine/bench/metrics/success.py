"""Success: the right answer likelier than its rival, after the edit prompt, paraphrases and neighbourhood prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from rome_engine.bench.asks import Answers, Ask
from rome_engine.bench.metrics.shared import compared, mean
from rome_engine.bench.record import Record


@dataclass(frozen=True)
class Success:
    """Share of a role's questions where nll(first answer) < nll(rival), nll the mean over a target's tokens.

    A tie is no success, on neighbourhood prompts either. None where no such question has a rival. Meng et al. 2022,
    section 3.3 and appendix: efficacy, paraphrase and neighbourhood score.
    """

    name: str
    role: str
    higher: bool = True
    unit: str = "share"

    def asks(self, record: Record) -> Iterable[Ask]:
        """Both targets, teacher-forced."""
        return chain.from_iterable(compared(record.of(self.role)))

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The mean within the record."""
        pairs = compared(record.of(self.role))
        return mean(
            after.forced(right.text, right.target).nll < after.forced(rival.text, rival.target).nll
            for right, rival in pairs
        )


METRICS = (Success("es@1", "efficacy"), Success("ps@1", "paraphrase"), Success("ns@1", "neighbourhood"))
