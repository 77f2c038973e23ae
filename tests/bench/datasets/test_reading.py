"""Data sets as wholes: the default one, schemas told and given, places of what is wrong, one line for each mistake."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rome_engine.bench.datasets import NAMES, read
from rome_engine.errors import BenchError, StorageError
from rome_engine.resources import data_file

OWN: dict[str, Any] = {"prompt": "{} is in", "subject": "The Louvre", "target_true": "Paris", "target_new": "Rome"}
QAEDIT: dict[str, Any] = {"prompt": "who made the bell?", "subject": "bell", "target": "Bo"}


def test_the_packages_own_facts_are_the_default_set() -> None:
    data = read()
    assert data.name == "own" and data.path == data_file("facts.json")
    assert data.sha256 == hashlib.sha256(data.path.read_bytes()).hexdigest()
    assert len(data.records) > 400 and not data.malformed
    assert len({record.id for record in data.records}) == len(data.records)
    for record in data.records:
        roles = [question.role for question in record.questions]
        assert roles.count("efficacy") == 1 and roles.count("paraphrase") >= 2 and roles.count("neighbourhood") >= 5
        assert record.generation and not any("{}" in question.text for question in record.questions)
        (fact,) = record.edits
        for question in record.of("efficacy", "paraphrase"):
            assert question.answers == (fact.target_new,) and question.rival == fact.target_true
        for question in record.of("neighbourhood"):
            assert question.answers == (fact.target_true,) and question.rival == fact.target_new
    assert read("own") == data


def test_schemas_are_told_record_by_record(written: Any) -> None:
    data = read(None, written([OWN, QAEDIT]))
    assert [record.edits[0].target_new for record in data.records] == ["Rome", "Bo"]
    assert [record.id for record in data.records] == ["1", "2"] and data.name == "data.json"


def test_a_schema_that_is_given_is_the_only_one(written: Any) -> None:
    data = read("qaedit", written([OWN, QAEDIT]))
    assert len(data.records) == 1
    (malformed,) = data.malformed
    assert "no record of qaedit: its fields are prompt, subject, target_new, target_true" in malformed.reason


def test_a_sets_name_stands_for_its_schema(written: Any) -> None:
    with pytest.raises(BenchError, match="no record of knowedit"):
        read("knowedit-recent", written([OWN]))


def test_places_are_the_lines_on_which_records_begin(written: Any) -> None:
    wrong = {**OWN, "prompt": "Mars is red"}
    data = read(None, written(f'[\n{json.dumps(OWN)},\n\n3, {{"prompt":\n1}},\n{json.dumps(wrong)}]'))
    assert len(data.records) == 1
    assert [one.place for one in data.malformed] == ["line 4", "line 4", "line 6"]
    number, unknown, subject = (one.reason for one in data.malformed)
    assert "not int" in number and "its fields are prompt" in unknown and "does not occur" in subject


def test_lines_and_tables(written: Any) -> None:
    lines = read(None, written(f"{json.dumps(OWN)}\n{{broken\n\n{json.dumps(QAEDIT)}\n", "data.jsonl"))
    assert len(lines.records) == 2
    (broken,) = lines.malformed
    assert broken.place == "line 2" and "no JSON" in broken.reason
    table = read(None, written("prompt,subject,target\nwho made the bell?,bell,Bo\nwho made it?,bell,Bo\n", "data.csv"))
    assert table.records[0].questions == lines.records[1].questions and table.malformed[0].place == "line 3"


def test_a_byte_order_mark_is_no_part_of_a_record(written: Any) -> None:
    content = "\ufeff" + json.dumps([{**OWN, "target_new": "Ålesund"}])
    assert read(None, written(content)).records[0].edits[0].target_new == "Ålesund"


def test_records_of_one_id_are_told_apart(written: Any) -> None:
    data = read(None, written([{**OWN, "id": "x"}, {**OWN, "id": "y"}, {**OWN, "id": "x"}, {**OWN, "id": "x"}]))
    assert [record.id for record in data.records] == ["x", "y", "x#2", "x#3"]
    data = read(None, written([{**OWN, "id": "x"}, {**OWN, "id": "x"}, {**OWN, "id": "x#2"}]))
    assert [record.id for record in data.records] == ["x", "x#3", "x#2"]


def test_what_stands_before_a_break_in_the_file_goes_on(written: Any) -> None:
    data = read(None, written(f'[{json.dumps(OWN)},\n{json.dumps(OWN)},\n{{"cut": "of'))
    assert len(data.records) == 2
    (broken,) = data.malformed
    assert broken.place == "line 3" and "what follows was not read" in broken.reason


@pytest.mark.parametrize("name", ["paraphrases", "neighbourhood", "generation"])
def test_a_text_that_is_none_is_told(written: Any, name: str) -> None:
    data = read(None, written([OWN, {**OWN, name: [None]}]))
    assert len(data.records) == 1 and f"{name!r} of a fact is no list of texts" in data.malformed[0].reason


def test_blank_questions_are_left_out(written: Any) -> None:
    whole = read(None, written([{**OWN, "neighbourhood": ["Who?", " "], "paraphrases": [" "]}]))
    assert [one.text for one in whole.records[0].questions][1:] == ["Who?"]


def test_facts_to_trace_cannot_be_edited(written: Any) -> None:
    known = {"known_id": 0, "subject": "Foo", "attribute": "Bar", "prompt": "Foo is"}
    with pytest.raises(BenchError, match=r"no usable record among the 1 of .*line 2: it has no new target"):
        read(None, written([known]))
    with pytest.raises(BenchError, match="known_1000 holds facts to trace"):
        read("known_1000")


def test_half_a_character_is_told(written: Any) -> None:
    data = read(None, written(json.dumps([OWN, {**OWN, "target_new": "\ud800"}])))
    assert "half a character" in data.malformed[0].reason


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no JSON list"),
        (" \n", "no JSON list"),
        ('[{"cut": "of', "no JSON list"),
        (f"{json.dumps(OWN)}\n{json.dumps(OWN)}\n", "name it data.jsonl if each line is a record"),
        (DEEP, "no JSON list"),
        (json.dumps(OWN).encode("utf-16"), "no UTF-8 text"),
        (b'["\xff"]', "no UTF-8 text"),
    ],
)
def test_files_that_are_no_data_in_one_line(written: Any, content: str | bytes, said: str) -> None:
    with pytest.raises(StorageError, match=said) as told:
        read(None, written(content))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", ["[]", "[3]", json.dumps(OWN), "{}"])
def test_files_without_a_record_in_one_line(written: Any, content: str) -> None:
    with pytest.raises(BenchError, match="no usable record") as told:
        read(None, written(content))
    assert "\n" not in str(told.value)


def test_what_is_not_there(tmp_path: Path, written: Any) -> None:
    with pytest.raises(StorageError, match=r"nothing\.json: No such file"):
        read(None, tmp_path / "nothing.json")
    with pytest.raises(BenchError, match=r"no data set 'counterfacts': there are .*counterfact, .*zsre"):
        read("counterfacts", written([OWN]))
    with pytest.raises(BenchError, match="'knowedit' is a schema of files: give the file with --data PATH"):
        read("knowedit")


def test_every_name_can_be_read_without_a_file() -> None:
    assert {"own", "counterfact", "zsre", "mquake", "knowedit-zsre", "qaedit", "ripple-popular", "lre"} <= set(NAMES)
    assert len(set(NAMES)) == len(NAMES) and "known_1000" not in NAMES
