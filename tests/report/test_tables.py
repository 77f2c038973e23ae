"""Tidy tables: what is written is what is read, provenance included, whole or not at all."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from rome_engine.errors import StorageError, TraceError
from rome_engine.report.tables import METADATA, save_table

ROWS: list[dict[str, Any]] = [
    {"token": 0, "text": 'a, "b"\r\nc', "head": None, "value": 0.1},
    {"token": 1, "text": "\r", "head": 3, "value": float("nan")},
]
PROVENANCE = {"model": "tiny", "versions": {"torch": "2"}, "paths": Path("x")}


def test_csv_has_its_provenance_beside_it(tmp_path: Path) -> None:
    save_table(ROWS, tmp_path / "t.csv", PROVENANCE)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert first == {"token": "0", "text": 'a, "b"\r\nc', "head": "", "value": "0.1"}
    assert second["text"] == "\r" and second["value"] == ""
    assert json.loads((tmp_path / "t.csv.json").read_text(encoding="utf-8"))["versions"] == {"torch": "2"}


def test_parquet_has_its_provenance_inside(tmp_path: Path) -> None:
    save_table(ROWS, tmp_path / "t.parquet", PROVENANCE)
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.column_names == list(ROWS[0]) and table["head"].to_pylist() == [None, 3]
    assert table["text"].to_pylist() == [row["text"] for row in ROWS]
    assert json.loads(table.schema.metadata[METADATA])["model"] == "tiny"
    assert [made.name for made in tmp_path.iterdir()] == ["t.parquet"]


def test_what_cannot_be_written_is_said_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TraceError, match="no row"):
        save_table([], tmp_path / "t.csv", {})
    with pytest.raises(StorageError, match=r"\.csv, \.parquet"):
        save_table(ROWS, tmp_path / "t.xlsx", {})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(StorageError, match="pip install"):
        save_table(ROWS, tmp_path / "t.parquet", {})
    assert not list(tmp_path.iterdir())
