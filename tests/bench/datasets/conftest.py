"""Files of a few records, read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rome_engine.bench.datasets import DataSet, read
from rome_engine.bench.record import Record

Write = Callable[..., Path]
ReadAll = Callable[..., DataSet]
ReadOne = Callable[[Any], Record]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    """Writes a text, bytes, or a JSON value."""

    def write(content: Any, name: str = "data.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
        return path

    return write


@pytest.fixture
def read_all(written: Write) -> ReadAll:
    """The data set of a list of records, its schema told from their fields."""
    return lambda *records, schema=None: read(schema, written(list(records)))


@pytest.fixture
def read_one(read_all: ReadAll) -> ReadOne:
    """The record of one JSON object, which must be usable."""

    def one(content: Any) -> Record:
        (record,) = read_all(content).records
        return record

    return one


@pytest.fixture
def refused(read_all: ReadAll) -> Callable[[Any, Any], str]:
    """Why a JSON object is no record, next to one that is."""

    def why(good: Any, bad: Any) -> str:
        found = read_all(good, bad)
        assert len(found.records) == 1
        (malformed,) = found.malformed
        assert "\n" not in malformed.reason
        return malformed.reason

    return why
