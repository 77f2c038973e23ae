"""Free generation: what the model answers when nothing of the answer is given away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rome_engine.bench.asks import Answers, Ask, Generated
from rome_engine.bench.metrics.normalise import begins, exact
from rome_engine.bench.metrics.shared import mean
from rome_engine.bench.record import Question, Record

TOKENS = 32
"""Where an answer that does not stop by itself is cut."""

Match = Callable[[str, Iterable[str]], bool]


@dataclass(frozen=True)
class FreeAnswer:
    """Share of a role's questions whose greedy answer, up to its natural stop, matches any of the right ones.

    The question's text is all that the model gets, be it a question or a sentence to go on. None where no such question
    has an answer. Yang et al. 2025 (WILD), by exact match in place of a judge.
    """

    name: str
    role: str
    match: Match
    higher: bool = True
    unit: str = "share"

    def asks(self, record: Record) -> Iterable[Ask]:
        """A greedy answer to each question."""
        return map(greedy, answerable(record, self.role))

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The mean within the record."""
        return mean(
            self.match(after.generated(greedy(question)).text, question.answers)
            for question in answerable(record, self.role)
        )


def answerable(record: Record, role: str) -> list[Question]:
    """A role's questions that have an answer."""
    return [question for question in record.of(role) if question.answers]


def greedy(question: Question) -> Generated:
    """The ask for a question's greedy answer."""
    return Generated(question.text, TOKENS)


METRICS = (
    FreeAnswer("free_em@1", "efficacy", exact),
    FreeAnswer("free_begins@1", "efficacy", begins),
    FreeAnswer("free_pem@1", "paraphrase", exact),
    FreeAnswer("free_portability@1", "portability", begins),
)
