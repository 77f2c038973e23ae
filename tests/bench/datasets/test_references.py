"""Reference and essence texts from a file: each shape it may have, and what is wrong with it by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rome_engine.bench.comparison import compare
from rome_engine.bench.datasets import DataSet, with_references
from rome_engine.bench.metrics import applicable
from rome_engine.bench.plan import Plan
from rome_engine.errors import BenchError, StorageError
from tests.bench.records import records
from tests.bench.runs import counterfact

DATA = DataSet("some.json", "f" * 64, records(3), (), Path("some.json"))


def written(folder: Path, content: Any, name: str = "refs.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    return path


OBJECT = {"0": ["Rome is old.", "Rome is large."], "2": {"essence": "The Colosseum is round.", "references": ["Paris"]}}
LISTED = [{"id": 0, "references": OBJECT["0"]}, {"id": "2", **OBJECT["2"]}]  # type: ignore[dict-item]
SHAPES: dict[str, tuple[Any, str]] = {
    "object": (OBJECT, "refs.json"),
    "list": (LISTED, "refs.json"),
    "lines": ("\n".join(map(json.dumps, LISTED)) + "\n\n", "refs.jsonl"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_texts_come_by_record(tmp_path: Path, shape: str) -> None:
    found = with_references(DATA, written(tmp_path, *SHAPES[shape]))
    assert [one.references for one in found.records] == [("Rome is old.", "Rome is large."), (), ("Paris",)]
    assert [one.essence for one in found.records] == [(), (), ("The Colosseum is round.",)]
    assert [one.questions for one in found.records] == [one.questions for one in DATA.records]
    assert "essence_ppl@1" in applicable(found.records) and "essence_ppl@1" not in applicable(DATA.records)


def test_a_record_that_is_not_named_keeps_its_own(tmp_path: Path) -> None:
    first = with_references(DATA, written(tmp_path, OBJECT))
    second = with_references(first, written(tmp_path, {"0": ["Another."]}))
    assert [one.references for one in second.records] == [("Another.",), (), ("Paris",)]
    assert second.records[2].essence == first.records[2].essence


def test_a_run_is_told_apart_by_them(tmp_path: Path) -> None:
    plan = Plan("r-rome", ("rs@1",))
    one, other = (with_references(DATA, written(tmp_path, {"0": [text]})) for text in ("Rome", "Paris"))
    assert len({json.dumps(plan.known(data)) for data in (DATA, one, other)}) == 3
    assert plan.known(DATA)["data"]["sha256"] == plan.known(one)["data"]["sha256"]
    runs = [
        counterfact(str(place), place, data_of={"sha256": "f" * 64, "references": data.references})
        for place, data in enumerate((one, other))
    ]
    for run in runs:
        object.__setattr__(run, "configuration", {**run.configuration, "data": run.configuration["data_of"]})
    assert (
        "These runs differ in the reference texts: a difference is not one of the methods alone." in compare(runs).notes
    )
    assert not any("reference" in note for note in compare([counterfact("a", 0), counterfact("b", 1)]).notes)


WRONG: dict[str, tuple[Any, str, str]] = {
    "unknown id": ({"0": ["a"], "7": ["b"]}, "refs.json", "line 5: some.json has no record '7'"),
    "unknown ids": (
        {str(n): ["a"] for n in range(5, 10)},
        "refs.json",
        "line 2: some.json has no record '5'; line 5: some.json has no record '6'; "
        "line 8: some.json has no record '7'; and 2 more",
    ),
    "twice": ('{"0": ["a"],\n "0": ["b"]}', "refs.json", "line 2: the record '0' comes a second time"),
    "twice in lines": (
        '{"id": 0, "essence": "a"}\n{"id": "0", "essence": "b"}',
        "refs.jsonl",
        "line 2: the record '0' comes a second time",
    ),
    "a text": ({"0": "a"}, "refs.json", "line 2: '0' has neither a list of texts nor an object"),
    "nothing": ({"0": []}, "refs.json", "line 2: '0' has no text among its references"),
    "an empty object": ({"0": {}}, "refs.json", "line 2: '0' has neither"),
    "another field": ({"0": {"reference": ["a"]}}, "refs.json", "line 2: '0' has neither"),
    "numbers": ({"0": [1, 2]}, "refs.json", "line 2: 'references' holds something that is no text: 1"),
    "half a character": ('{"0": ["\\ud800"]}', "refs.json", "line 1: '0' holds half a character"),
    "no id": ('{"essence": "a"}\n{"id": 1, "essence": "b"}', "refs.jsonl", 'line 1: it is no object with an "id"'),
    "a broken line": ('{"id": 1, "essence": "b"}\n{broken', "refs.jsonl", "line 2: it is no JSON"),
    "a list of texts": (["a"], "refs.json", 'line 2: it is no object with an "id"'),
    "empty": ({}, "refs.json", "it holds none"),
    "no lines": ("\n", "refs.jsonl", "it holds none"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_by_line(tmp_path: Path, what: str) -> None:
    content, name, said = WRONG[what]
    path = written(tmp_path, content, name)
    with pytest.raises(BenchError) as error:
        with_references(DATA, path)
    assert str(error.value).startswith(f"cannot use the references {path}: ") and said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{broken", '{"0": ["a"],}', '{"0": ["a"]} 1', "{1: 2}", '{"0" ["a"]}', "7", ""])
def test_what_is_no_json(tmp_path: Path, content: str) -> None:
    with pytest.raises(StorageError, match=r"it is no JSON .*refs\.jsonl"):
        with_references(DATA, written(tmp_path, content))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read the references .*check the path"):
        with_references(DATA, tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes('{"0": ["é"]}'.encode("latin-1"))
    with pytest.raises(StorageError, match="no UTF-8"):
        with_references(DATA, tmp_path / "latin.json")
