from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from rome_engine.errors import StorageError
from rome_engine.report.results import save_attribution, save_lens
from rome_engine.trace.attribution import attribute
from rome_engine.trace.lens import lens
from tests import tiny

PROMPT = "The Eiffel Tower is in"


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_both_are_saved_as_tables_and_records(tmp_path: Path, suffix: str) -> None:
    model = tiny.shared("llama")
    read, attributed = lens(model, PROMPT), attribute(model, PROMPT, heads=True)
    first, second = tmp_path / f"lens{suffix}", tmp_path / f"attribution{suffix}"

    save_lens(read, first)
    save_attribution(attributed, second)

    for path, result in ((first, read), (second, attributed)):
        if suffix == ".json":
            assert json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(result.to_dict()))
        elif suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            assert len(rows) == len(result.rows())
            assert list(rows[0]) == list(result.rows()[0])
        else:
            parquet = pytest.importorskip("pyarrow.parquet")
            table = parquet.read_table(path)
            assert table.to_pylist() == result.rows()
            assert json.loads(table.schema.metadata[b"rome_engine"])["weights"] == model.weight_hash()


def test_a_lens_is_saved_as_a_page(tmp_path: Path) -> None:
    save_lens(lens(tiny.shared("llama"), PROMPT), tmp_path / "lens.html")

    assert (tmp_path / "lens.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"\.parquet"):
        save_lens(lens(tiny.shared("llama"), PROMPT), tmp_path / "lens.txt")
    with pytest.raises(StorageError, match=r"\.csv"):
        save_attribution(attribute(tiny.shared("llama"), PROMPT), tmp_path / "attribution.txt")
