"""Fields of a JSON object as they are needed, or the reason why they are not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rome_engine.errors import PromptError


def text(record: Mapping[str, Any], name: str) -> str:
    """A text that must be there, without spaces around it. Raises PromptError."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise PromptError(
            f"the record has no text {name!r}" if value is None else f"{name!r} is no text: {value!r:.60}"
        )
    return value.strip()


def texts(record: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """All texts of a field that is a text, a list of texts, or a list of lists; none where it is missing or empty.

    Data sets nest them so: the answers to a question, and for each the ways to say it. Raises PromptError.
    """
    found = (one.strip() for one in _within(record.get(name), name))
    return tuple(dict.fromkeys(one for one in found if one))


def objects(record: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], ...]:
    """A list of objects; none where it is missing. Raises PromptError."""
    values = record.get(name)
    if values is None:
        return ()
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise PromptError(f"{name!r} is no list of objects: {values!r:.60}")
    return tuple(values)


def mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object; an empty one where it is missing. Raises PromptError."""
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PromptError(f"{name!r} is no object: {value!r:.60}")
    return value


def _within(value: Any, name: str) -> Iterator[str]:
    match value:
        case None:
            return
        case str():
            yield value
        case list():
            for one in value:
                yield from _within(one, name)
        case _:
            raise PromptError(f"{name!r} holds something that is no text: {value!r:.60}")
