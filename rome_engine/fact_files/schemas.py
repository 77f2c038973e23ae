"""The schemas of the field, each with the fields it may have and what they are of a fact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from rome_engine.errors import PromptError
from rome_engine.fact_files.records import LISTS
from rome_engine.facts import Fact

Reader = Callable[[Mapping[str, Any]], Fact]


@dataclass(frozen=True)
class Schema:
    """A kind of record. mark: the field that tells it. fields: those it may have, with spaces between them."""

    mark: str
    fields: str
    read: Reader


def fact(record: Any) -> Fact:
    """The fact of one record in whichever schema. Raises PromptError and its kinds."""
    if not isinstance(record, dict):
        raise PromptError(f"a record is a JSON object, not {type(record).__name__}")
    schema = next((schema for schema in SCHEMAS if schema.mark in record), None)
    if schema is None:
        return _own(record)
    _check_known(record, schema.fields)
    return schema.read(record)


def _check_known(record: Mapping[str, Any], names: str, place: str = "") -> None:
    known = names.split()
    unknown = sorted(set(record) - set(known))
    if unknown:
        raise PromptError(f"unknown fields {', '.join(unknown)}{place}: known are {', '.join(sorted(known))}")


def _own(record: Mapping[str, Any]) -> Fact:
    for name, value in record.items():
        if name in LISTS:
            fits = isinstance(value, list) and all(isinstance(text, str) for text in value)
        else:
            fits = isinstance(value, str | None)
        if not fits:
            raise PromptError(f"the field {name!r} of a fact is no {'list of texts' if name in LISTS else 'text'}")
    prompt, subject = _text(record, "prompt"), _text(record, "subject")
    place = Fact.of(prompt, subject).prompt
    return Fact.from_dict({**record, "prompt": place})


def _known(record: Mapping[str, Any]) -> Fact:
    """ROME's facts for tracing (Meng et al. 2022)."""
    return Fact.of(
        _text(record, "prompt"),
        _text(record, "subject"),
        target_true=_text(record, "attribute").strip(),
        relation=_optional(record, "relation_id"),
        id=_optional(record, "known_id"),
    )


def _counterfact(record: Mapping[str, Any]) -> Fact:
    """CounterFact as it was published (Meng et al. 2022); its attribute prompts are left out."""
    asked = _object(record, "requested_rewrite", "prompt relation_id target_new target_true subject")
    return Fact.of(
        _text(asked, "prompt"),
        _text(asked, "subject"),
        target_true=_text(_object(asked, "target_true", "str id"), "str").strip(),
        target_new=_text(_object(asked, "target_new", "str id"), "str").strip(),
        paraphrases=_texts(record, "paraphrase_prompts"),
        neighbourhood=_texts(record, "neighborhood_prompts"),
        generation=_texts(record, "generation_prompts"),
        relation=_optional(asked, "relation_id"),
        id=_optional(record, "case_id"),
    )


def _flat(record: Mapping[str, Any]) -> Fact:
    """CounterFact as one level of fields.

    Its "rephrase" prompts often ask something else of the subject, so they are openings here. Its "locality" prompt is
    a neighbour where the answer is the fact's own.
    """
    true = _text(record, "ground_truth").strip()
    neighbour = _optional(record, "locality_prompt")
    same = _optional(record, "locality_ground_truth") == true
    rephrased = _optional(record, "rephrase_prompt")
    return Fact.of(
        _text(record, "prompt"),
        _text(record, "subject"),
        target_true=true,
        target_new=_text(record, "target_new").strip(),
        neighbourhood=(neighbour,) if neighbour and same else (),
        generation=(rephrased,) if rephrased else (),
        id=_optional(record, "case_id"),
    )


def _zsre(record: Mapping[str, Any]) -> Fact:
    """zsRE's questions; the unrelated question has another answer and is left out, as is what tests portability."""
    answers = _texts(record, "answers")
    rephrased = _optional(record, "rephrase")
    return Fact.of(
        _text(record, "src"),
        _text(record, "subject"),
        target_true=answers[0].strip() if answers else None,
        target_new=_text(record, "alt").strip(),
        paraphrases=(rephrased,) if rephrased else (),
        id=_optional(record, "case_id"),
    )


SCHEMAS = (
    Schema(
        "requested_rewrite",
        "case_id pararel_idx requested_rewrite paraphrase_prompts neighborhood_prompts attribute_prompts "
        "generation_prompts",
        _counterfact,
    ),
    Schema(
        "ground_truth",
        "case_id prompt subject target_new ground_truth rephrase_prompt locality_prompt locality_ground_truth",
        _flat,
    ),
    Schema("src", "case_id subject src pred rephrase alt answers loc loc_ans cond portability", _zsre),
    Schema("attribute", "known_id subject attribute template prediction prompt relation_id", _known),
)
FIELDS = frozenset(
    (*(field.name for field in fields(Fact)), *(name for schema in SCHEMAS for name in schema.fields.split()))
)
"""Those of all schemas."""


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise PromptError(
            f"the record has no text {name!r}" if value is None else f"{name!r} is no text: {value!r:.60}"
        )
    return value


def _texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = record.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise PromptError(f"{name!r} is no list of texts: {values!r:.60}")
    return tuple(values)


def _object(record: Mapping[str, Any], name: str, known: str) -> Mapping[str, Any]:
    value = record.get(name)
    if not isinstance(value, dict):
        raise PromptError(f"the record has no object {name!r}")
    _check_known(value, known, f" in {name!r}")
    return value


def _optional(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if value is not None and (not isinstance(value, str | int | float) or isinstance(value, bool)):
        raise PromptError(f"{name!r} is neither a text nor a number: {value!r:.60}")
    return None if value is None else str(value)
