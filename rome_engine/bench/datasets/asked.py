"""The record of one edited fact: what every data set of single edits asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rome_engine.bench.record import Question, Record
from rome_engine.errors import TargetError
from rome_engine.facts import PLACE, Fact


def record_of(fact: Fact, id: str, *more: Question) -> Record:
    """A fact's record: its prompt, paraphrases and neighbours as questions, its openings for free text, and `more`.

    The targets compete: the new one is the answer on the prompt and its paraphrases, the true one on the neighbours.
    Raises TargetError for a fact that cannot be edited: without a new target, or with the true one as the new.
    """
    fact = targeted(fact)
    return Record(fact.id or id, (fact,), (*_questions(fact), *more), generation=_filled(fact.generation, fact.subject))


def targeted(fact: Fact) -> Fact:
    """The fact with its targets bare of spaces. Raises TargetError where there is nothing to edit."""
    new, true = (fact.target_new or "").strip(), (fact.target_true or "").strip() or None
    if not new:
        raise TargetError("it has no new target, so there is nothing to edit")
    if new == true:
        raise TargetError(f"its new target {new!r} is the true one, so there is nothing to edit")
    return replace(fact, target_new=new, target_true=true)


def learnt(fact: Fact) -> Fact:
    """The fact without its true target where that is the new one.

    Sets that score each answer by itself also have the model learn what is true; there is no rival then.
    """
    return replace(fact, target_true=None) if fact.target_true == fact.target_new else fact


def efficacy(fact: Fact) -> Question:
    """The edit's own prompt."""
    assert fact.target_new is not None
    return Question("efficacy", fact.text, (fact.target_new,), fact.target_true)


def _questions(fact: Fact) -> Iterator[Question]:
    asked = efficacy(fact)
    yield asked
    for text in _filled(fact.paraphrases, fact.subject):
        yield replace(asked, about="paraphrase", text=text)
    for text in _filled(fact.neighbourhood, fact.subject):
        yield Question("neighbourhood", text, () if fact.target_true is None else (fact.target_true,), fact.target_new)


def _filled(templates: tuple[str, ...], subject: str) -> tuple[str, ...]:
    return tuple(text.replace(PLACE, subject) for text in templates if text.strip())
