"""A benchmark's record: what is edited, and what is asked of the model afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rome_engine.facts import Fact


@dataclass(frozen=True)
class Question:
    """Something that is asked of a model.

    about: its role, such as "efficacy", "paraphrase", "neighbourhood", "locality", "portability", "multi-hop", with a
    kind behind a colon where the data set tells kinds apart ("portability:Reasoning"). answers: any of them is right
    after the edit; without one the untouched model's own answer is the measure. rival: the answer that the first one
    is compared with.
    """

    about: str
    text: str
    answers: tuple[str, ...] = ()
    rival: str | None = None

    @property
    def role(self) -> str:
        """`about` without the kind."""
        return self.about.partition(":")[0]


@dataclass(frozen=True)
class Record:
    """One case: the facts that are edited together for it, and its questions.

    generation: openings for free text. references: texts that such text is compared with. essence: texts about the
    subject whose perplexity is measured.
    """

    id: str
    edits: tuple[Fact, ...]
    questions: tuple[Question, ...] = ()
    generation: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    essence: tuple[str, ...] = ()

    def of(self, *roles: str) -> Iterator[Question]:
        """The questions in these roles, in their order."""
        return (question for question in self.questions if question.role in roles)
