"""A fact: what is asked, about whom, and what the answer is or shall become."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from rome_engine.errors import AmbiguousSubjectError, PromptError, SubjectNotFoundError, TargetError

PLACE = "{}"


@dataclass(frozen=True)
class Fact:
    """One fact as a prompt template and its subject.

    `prompt` holds `{}` exactly once, where the subject stands. Targets are given without a leading space. `foil` is a
    wrong answer to compare with, `paraphrases` ask the same, `neighbourhood` asks the same of other subjects, and
    `generation` are openings for free text about the subject. `counterfactual` is a subject of as many tokens for which
    the answer is another one.

    Raises PromptError for a template without exactly one `{}` or an empty subject.
    """

    prompt: str
    subject: str
    target_true: str | None = None
    target_new: str | None = None
    foil: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbourhood: tuple[str, ...] = ()
    generation: tuple[str, ...] = ()
    counterfactual: str | None = None
    relation: str | None = None
    id: str | None = None

    def __post_init__(self) -> None:
        if not self.subject.strip():
            raise PromptError("the subject is empty: name the words the fact is about")
        if self.prompt.count(PLACE) != 1:
            raise PromptError(f"the prompt {self.prompt!r} must hold {{}} exactly once, in the subject's place")

    @classmethod
    def of(cls, prompt: str, subject: str, **other: Any) -> Fact:
        """The fact of a plain prompt that holds the subject once, or of a template with `{}` in its place.

        Raises SubjectNotFoundError or AmbiguousSubjectError, which name the remedy.
        """
        return cls(prompt=template(prompt, subject), subject=subject, **other)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Fact:
        """The fact of a JSON object with this class's field names; unknown names raise PromptError."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(record) - known)
        if unknown:
            raise PromptError(f"unknown fields {', '.join(unknown)} in a fact: known are {', '.join(sorted(known))}")
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
        }
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """The fact as a JSON object, empty fields left out."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}

    @property
    def text(self) -> str:
        """The prompt with the subject in its place."""
        return self.prompt.replace(PLACE, self.subject)

    def with_target(self, target_new: str) -> Fact:
        """The same fact with another new target. Raises TargetError for an empty one."""
        if not target_new.strip():
            raise TargetError("the target is empty: name the answer the model shall give")
        return replace(self, target_new=target_new)


def template(prompt: str, subject: str) -> str:
    """`prompt` with `{}` in the place of its single occurrence of `subject`; a template is returned as it is.

    Raises PromptError for an empty subject, SubjectNotFoundError, AmbiguousSubjectError.
    """
    if not subject.strip():
        raise PromptError("the subject is empty: name the words the fact is about")
    if PLACE in prompt:
        return prompt
    starts = list(_occurrences(prompt, subject))
    if not starts:
        raise SubjectNotFoundError(
            f"the subject {subject!r} does not occur in the prompt {prompt!r}: write it exactly as it stands there"
        )
    if len(starts) > 1:
        raise AmbiguousSubjectError(
            f"the subject {subject!r} occurs {len(starts)} times in the prompt {prompt!r}: "
            "write {} in the place of the occurrence that is meant"
        )
    start = starts[0]
    return prompt[:start] + PLACE + prompt[start + len(subject) :]


def _occurrences(text: str, part: str) -> Iterable[int]:
    start = text.find(part)
    while start >= 0:
        yield start
        start = text.find(part, start + 1)
