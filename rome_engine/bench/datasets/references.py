"""Texts that data sets leave out, from a file by record id: references for RS, and essence texts, about the subject."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rome_engine.bench.datasets import scan
from rome_engine.bench.datasets.dataset import DataSet
from rome_engine.bench.datasets.fields import texts
from rome_engine.errors import BenchError, PromptError, StorageError
from rome_engine.fact_files.records import LINES

FIELDS = ("references", "essence")
_SHOWN = 3

Found = Iterator[tuple[int, Any]]


def with_references(data: DataSet, path: Path) -> DataSet:
    """The data set with the texts of a file in place of its records' own.

    path: a JSON object of record ids; the value of each is a list of reference texts, or an object with "references",
    "essence" or both. Or lines of JSON (.jsonl), or a JSON list, of such objects that hold their "id" too.
    Raises StorageError for a file that cannot be read; BenchError, with the lines, for an id that no record has or that
    comes twice, and for what is no such texts.
    """
    content = _content(path)
    known = {record.id for record in data.records}
    found: dict[str, dict[str, Any]] = {}
    wrong = []
    for line, one in _entries(content.decode("utf-8-sig"), path):
        try:
            name, value = _entry(one)
            if name not in known:
                raise PromptError(f"{data.name} has no record {name!r}")
            if name in found:
                raise PromptError(f"the record {name!r} comes a second time")
            found[name] = value
        except PromptError as error:
            wrong.append(f"line {line}: {error}")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise BenchError(f"cannot use the references {path}: {'; '.join(wrong[:_SHOWN])}{more} (correct the file)")
    if not found:
        raise BenchError(f"cannot use the references {path}: it holds none (give a list of texts for each record's id)")
    records = tuple(replace(record, **found.get(record.id, {})) for record in data.records)
    return replace(data, records=records, references=hashlib.sha256(content).hexdigest())


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        content.decode("utf-8-sig")
    except OSError as error:
        raise StorageError(f"cannot read the references {path}: {error.strerror or error} (check the path)") from error
    except UnicodeDecodeError as error:
        raise StorageError(f"cannot read the references {path}: it is no UTF-8 text; save it as UTF-8") from error
    return content


def _entries(text: str, path: Path) -> Found:
    """What stands for each record, and its line: an object with an id, or a pair of id and value."""
    try:
        if path.suffix.lower() in LINES:
            yield from _lines(text)
        elif text.startswith("[", scan.begin(text)):
            yield from scan.with_lines(text, scan.whole_list(text))
        else:
            yield from scan.with_lines(text, scan.members(text))
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"cannot read the references {path}: it is no JSON ({error}); name it {path.stem}.jsonl if each line is a "
            "record's"
        ) from error


def _lines(text: str) -> Found:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, PromptError(f"it is no JSON: {error}")


def _entry(content: Any) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A record's id and its texts. Raises PromptError for what has none."""
    if isinstance(content, PromptError):
        raise content
    if isinstance(content, tuple):
        name, value = content
    elif isinstance(content, Mapping) and isinstance(content.get("id"), str | int):
        name, value = str(content["id"]), {field: of for field, of in content.items() if field != "id"}
    else:
        raise PromptError('it is no object with an "id" and "references" or "essence"')
    if isinstance(value, list):
        value = {"references": value}
    if not isinstance(value, Mapping) or not value or set(value) - set(FIELDS):
        raise PromptError(f'{name!r} has neither a list of texts nor an object with "references" or "essence"')
    return name, {field: _texts(value, field, name) for field in value}


def _texts(value: Mapping[str, Any], field: str, name: str) -> tuple[str, ...]:
    found = texts(value, field)
    if not found:
        raise PromptError(f"{name!r} has no text among its {field}")
    try:
        " ".join(found).encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"{name!r} holds half a character (a surrogate alone), which no tokenizer takes") from error
    return found
