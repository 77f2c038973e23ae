import csv
import json
from collections.abc import Callable
from math import nan
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from rome_engine.errors import StorageError, TraceError
from rome_engine.report import SUFFIXES, save
from rome_engine.report.tables import METADATA
from rome_engine.trace.result import Trace


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".html", b"<!DOCTYPE html>"), (".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".json", b"[{")],
)
def test_the_suffix_says_the_format(three: list[Trace], tmp_path: Path, suffix: str, start: bytes) -> None:
    save(three, tmp_path / f"maps{suffix}")
    assert (tmp_path / f"maps{suffix}").read_bytes().startswith(start)
    assert len(list(tmp_path.iterdir())) == 1


def test_one_trace_comes_back_from_json(trace: Trace, tmp_path: Path) -> None:
    save([trace], tmp_path / "a.json")
    assert Trace.load(tmp_path / "a.json").to_dict() == trace.to_dict()


def test_several_traces_are_a_list(three: list[Trace], tmp_path: Path) -> None:
    save(three, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == [trace.to_dict() for trace in three]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_hold_the_rows_of_all_traces_and_how_they_came_about(
    three: list[Trace], tmp_path: Path, suffix: str
) -> None:
    save(three, tmp_path / f"a{suffix}")
    if suffix == ".csv":
        with (tmp_path / "a.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        about = json.loads((tmp_path / "a.csv.json").read_text())
    else:
        table = parquet.read_table(tmp_path / "a.parquet")
        rows, about = table.to_pylist(), json.loads(table.schema.metadata[METADATA])
    expected = [row for trace in three for row in trace.rows()]
    assert [(row["kind"], int(row["layer"]), float(row["value"])) for row in rows] == [
        (row["kind"], row["layer"], row["value"]) for row in expected
    ]
    assert [one["kind"] for one in about["traces"]] == ["hidden", "mlp", "attn"]
    assert about["traces"][0]["provenance"] == three[0].provenance and "scores" not in about["traces"][0]


def test_json_holds_no_number_that_json_lacks(make_trace: Callable[..., Trace], tmp_path: Path) -> None:
    scores = make_trace().scores.copy()
    scores[0, 0] = nan
    save([make_trace(scores=scores)], tmp_path / "a.json")
    assert "NaN" not in (tmp_path / "a.json").read_text()
    assert np.array_equal(Trace.load(tmp_path / "a.json").scores, scores, equal_nan=True)


@pytest.mark.parametrize("name", ["a.txt", "a", "html"])
def test_another_suffix_names_those_that_work(trace: Trace, tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError) as caught:
        save([trace], tmp_path / name)
    assert all(suffix in str(caught.value) for suffix in SUFFIXES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_old_file(
    trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        save([trace], path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_no_traces_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError):
        save([], tmp_path / "a.json")
