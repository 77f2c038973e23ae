"""The records of a file, not yet understood: of a JSON list, of lines of JSON, or of a CSV table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rome_engine.errors import PromptError, StorageError
from rome_engine.facts import Fact

LINES = (".jsonl", ".ndjson")
TABLE = ".csv"
SEPARATOR = "|"
LISTS = frozenset(field.name for field in fields(Fact) if field.default == ())


@dataclass(frozen=True)
class Record:
    """What stands in a file at one place. content: an error where it cannot be read. line: None in a JSON list."""

    content: Any
    line: int | None = None


def records(text: str, path: Path) -> Iterator[Record]:
    """The records of a file's text, by the suffix of its name. Raises StorageError for one that is no such file."""
    suffix = path.suffix.lower()
    if suffix in LINES:
        return _lines(text)
    return _table(text, path) if suffix == TABLE else _list(text, path)


def _list(text: str, path: Path) -> Iterator[Record]:
    try:
        whole = json.loads(text)
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
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                content = PromptError(f"the line is no JSON: {error}")
            yield Record(content, number)


def _table(text: str, path: Path) -> Iterator[Record]:
    """Rows under a header; empty cells are left out, and lists are JSON or texts with | between them."""
    # Line ends inside a quoted cell belong to it: the reader wants them as they are.
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        if len(set(header)) < len(header) or not all(header):
            raise StorageError(f"cannot read the facts {path}: its first line must name each column, and none twice")
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
    return {name: _split(cell) if name in LISTS else cell for name, cell in named.items()}


def _split(cell: str) -> list[Any]:
    if cell.lstrip().startswith("["):
        try:
            found = json.loads(cell)
        except ValueError:
            pass  # a text that begins with a bracket
        else:
            return list(found)
    return [part.strip() for part in cell.split(SEPARATOR) if part.strip()]
