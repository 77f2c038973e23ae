"""Where things stand in a JSON text: what a decoder of the whole forgets, and people need to find a record.

An object in which a field stands twice is the error in its place, see `records.once`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from rome_engine.fact_files.records import once

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(object_pairs_hook=once)


def begin(text: str) -> int:
    """The offset of the first character that is no space."""
    return _after_space(text, 0)


def whole_list(text: str) -> Iterator[tuple[int, Any]]:
    """The elements of a text that is one JSON list, each with its offset. Raises JSONDecodeError."""
    end = yield from elements(text, begin(text))
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def elements(text: str, at: int) -> Generator[tuple[int, Any], None, int]:
    """The elements of the JSON list at an offset, each with its own; returns where what follows begins."""
    at = _expected(text, at, "[")
    if text.startswith("]", at):
        return _expected(text, at, "]")
    while True:
        value, end = _DECODER.raw_decode(text, at)
        yield at, value
        at = _after_space(text, end)
        if text.startswith("]", at):
            return _expected(text, at, "]")
        at = _expected(text, at, ",")


def member(text: str, name: str) -> int:
    """The offset of a member's value in a text that is one JSON object and has it. Raises JSONDecodeError."""
    at = _expected(text, begin(text), "{")
    while True:
        key, end = _DECODER.raw_decode(text, at)
        at = _expected(text, _after_space(text, end), ":")
        if key == name:
            return at
        _, end = _DECODER.raw_decode(text, at)
        at = _expected(text, _after_space(text, end), ",")


def members(text: str) -> Iterator[tuple[int, tuple[str, Any]]]:
    """The members of a text that is one JSON object, each with its name's offset. Raises JSONDecodeError."""
    at = _expected(text, begin(text), "{")
    while not text.startswith("}", at):
        name, end = _DECODER.raw_decode(text, at)
        if not isinstance(name, str):
            raise json.JSONDecodeError("Expecting a name in double quotes", text, at)
        value, end = _DECODER.raw_decode(text, _expected(text, _after_space(text, end), ":"))
        yield at, (name, value)
        at = _after_space(text, end)
        if not text.startswith("}", at):
            at = _expected(text, at, ",")
            if text.startswith("}", at):
                raise json.JSONDecodeError("Expecting another member", text, at)
    at = _expected(text, at, "}")
    if at != len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def with_lines(text: str, found: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """The same values with their lines, from 1, in the offsets' place; offsets grow."""
    line, seen = 1, 0
    for at, value in found:
        line, seen = line + text.count("\n", seen, at), at
        yield line, value


def _expected(text: str, at: int, sign: str) -> int:
    """The offset of what follows a sign that must be here."""
    if not text.startswith(sign, at):
        raise json.JSONDecodeError(f"Expecting '{sign}'", text, at)
    return _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
