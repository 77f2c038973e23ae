"""Multi-hop questions: what follows from edits together. And the single hops that they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rome_engine.bench.asks import Answers, Ask, Forced
from rome_engine.bench.metrics.free import FreeAnswer, Match, answerable, greedy
from rome_engine.bench.metrics.normalise import begins, exact
from rome_engine.bench.record import Record

ROLE = "multi-hop"


@dataclass(frozen=True)
class MultiHop:
    """1 where any of the case's multi-hop questions, which paraphrase one another, gets a right greedy answer, else 0.

    An answer is read up to its natural stop; aliases count. None where no such question has an answer. Zhong et al.
    2023 (MQuAKE), without their few-shot prompt.
    """

    name: str
    match: Match
    higher: bool = True
    unit: str = "share"

    def asks(self, record: Record) -> Iterable[Ask]:
        """A greedy answer to each question."""
        return map(greedy, answerable(record, ROLE))

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """Whether the case counts."""
        questions = answerable(record, ROLE)
        if not questions:
            return None
        return float(any(self.match(after.generated(greedy(one)).text, one.answers) for one in questions))


@dataclass(frozen=True)
class ForcedMultiHop:
    """1 where for any of the case's multi-hop questions every token of any alias is the argmax, teacher-forced, else 0.

    None where no such question has an answer.
    """

    name: str = "multihop_forced@1"
    higher: bool = True
    unit: str = "share"

    def asks(self, record: Record) -> Iterable[Ask]:
        """Every answer to each question, teacher-forced."""
        return (Forced(question.text, answer) for question in record.of(ROLE) for answer in question.answers)

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """Whether the case counts."""
        questions = answerable(record, ROLE)
        if not questions:
            return None
        return float(any(all(after.forced(one.text, answer).hits) for one in questions for answer in one.answers))


METRICS = (
    MultiHop("multihop@1", exact),
    MultiHop("multihop_begins@1", begins),
    ForcedMultiHop(),
    FreeAnswer("singlehop@1", "single-hop", exact),
)
