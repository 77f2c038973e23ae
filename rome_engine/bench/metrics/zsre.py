"""Token accuracy, as zsRE and KnowEdit report it: the share of an answer's tokens that are the likeliest ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean

from rome_engine.bench.asks import Answers, Ask
from rome_engine.bench.metrics.shared import first_answers, mean
from rome_engine.bench.record import Question, Record


@dataclass(frozen=True)
class TokenAccuracy:
    """Share of the first answer's tokens that are the argmax, teacher-forced, mean over a role's questions.

    Each question weighs the same, however long its answer. kind: only questions of this kind ("reasoning" of
    "portability:Reasoning"; spaces are underscores, case does not matter). None where no such question has an answer.
    """

    name: str
    role: str
    kind: str | None = None
    higher: bool = True
    unit: str = "share"

    def asks(self, record: Record) -> Iterable[Ask]:
        """The first answers, teacher-forced."""
        return first_answers(self._questions(record))

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The mean within the record."""
        asks = first_answers(self._questions(record))
        return mean(fmean(after.forced(ask.text, ask.target).hits) for ask in asks)

    def _questions(self, record: Record) -> Iterator[Question]:
        return (question for question in record.of(self.role) if self.kind in (None, _kind(question)))


def _kind(question: Question) -> str:
    return question.about.partition(":")[2].replace(" ", "_").casefold()


METRICS = (
    TokenAccuracy("zsre_efficacy@1", "efficacy"),
    TokenAccuracy("zsre_paraphrase@1", "paraphrase"),
    TokenAccuracy("zsre_specificity@1", "locality"),
)
