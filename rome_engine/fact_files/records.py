"""The records of a file, not yet understood: of a JSON list, of lines of JSON, or of a CSV table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rome_engine.errors import PromptError, StorageError
from rome_engine.facts import Fact

LINES = (".jsonl", ".ndjson")
TABLE = ".csv"
SEPARATOR = "|"
LISTS = frozenset(field.name for field in fields(Fact) if field.default == ())
# Those of the other schemas, whose names none of them uses for anything else.
_SPLIT = LISTS | {"paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts", "answers"}


@dataclass(frozen=True)
class Record:
    """What stands in a file at one place. content: an error where it cannot be read. line: None in a JSON list."""

    content: Any
    line: int | None = None


def records(text: str, path: Path, columns: Collection[str] | None = None) -> Iterator[Record]:
    """The records of a file's text, by the suffix of its name.

    columns: those that a table may have; None for any. Raises StorageError for what is no such file.
    """
    suffix = path.suffix.lower()
    if suffix in LINES:
        return _lines(text)
    return _table(text, path, columns) if suffix == TABLE else _list(text, path)


def once(pairs: list[tuple[str, Any]]) -> Any:
    """A JSON object of its fields; the error in its place where one stands there, or within, twice: one would be lost.

    To be the `object_pairs_hook` of a decoder.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        return PromptError(f"the field {twice!r} stands twice in one object: leave one of them")
    parts = (part for value in found.values() for part in (value if isinstance(value, list) else [value]))
    return next((part for part in parts if isinstance(part, PromptError)), found)


def _list(text: str, path: Path) -> Iterator[Record]:
    try:
        whole = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"cannot read the facts {path}: it is no JSON ({error}); name it {path.stem}.jsonl if each line is a record"
        ) from error
    if not isinstance(whole, list):
        raise StorageError(f"cannot read the facts {path}: a JSON file of facts is a list of objects")
    for record in whole:
        yield Record(record)


def _lines(text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                content = json.loads(line, object_pairs_hook=once)
            except (ValueError, RecursionError) as error:
                content = PromptError(f"the line is no JSON: {error}")
            yield Record(content, number)


def _table(text: str, path: Path, columns: Collection[str] | None) -> Iterator[Record]:
    """Rows under a header; empty cells are left out, and lists are JSON or texts with | between them."""
    # Line ends inside a quoted cell belong to it: the reader wants them as they are.
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if len(set(header)) < len(header) or not all(header):
            raise StorageError(f"cannot read the facts {path}: its first line must name each column, and none twice")
        if columns is not None and (unknown := sorted(set(header) - set(columns))):
            raise StorageError(
                f"cannot read the facts {path}: unknown columns {', '.join(unknown)}: known are "
                f"{', '.join(sorted(columns))}"
            )
        begin = rows.line_num
        for row in rows:
            if row:
                yield Record(_cells(header, row), begin + 1)
            begin = rows.line_num
    except csv.Error as error:
        raise StorageError(f"cannot read the facts {path}: line {rows.line_num} is no CSV ({error})") from error


def _cells(header: list[str], row: list[str]) -> dict[str, Any] | PromptError:
    if len(row) > len(header):
        return PromptError(f"the row has {len(row)} cells under {len(header)} columns: put texts with commas in quotes")
    named = {name: cell for name, cell in zip(header, row, strict=False) if cell.strip()}
    return {name: _split(cell) if name in _SPLIT else cell for name, cell in named.items()}


def _split(cell: str) -> list[Any]:
    if cell.lstrip().startswith("["):
        try:
            found = json.loads(cell)
        except ValueError:
            pass  # a text that begins with a bracket
        else:
            return list(found)
    return [part.strip() for part in cell.split(SEPARATOR) if part.strip()]
