"""LRE's relations: edits made of them, the same in every run, and neighbours that the edit must leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rome_engine.bench.datasets import DataSet, lre, read
from rome_engine.errors import BenchError, StorageError

PAIRS = [(f"Town {letter}", f"Land {number % 4}") for number, letter in enumerate("ABCDEFGHIJKLMNOPQR")]


def relation(pairs: Any = PAIRS, **changed: Any) -> dict[str, Any]:
    return {
        "name": "town land",
        "prompt_templates": ["{} lies in", "The land of {} is"],
        "prompt_templates_zs": ["Where is {}? In", "{} lies in"],
        "properties": {"relation_type": "factual"},
        "samples": [{"subject": subject, "object": object} for subject, object in pairs],
        **changed,
    }


@pytest.fixture
def found(written: Any) -> DataSet:
    return read(None, written(relation()))


def test_every_subject_is_a_record(found: DataSet) -> None:
    assert [record.id for record in found.records] == [f"town land/{subject}" for subject, _ in PAIRS]
    for record, (subject, true) in zip(found.records, PAIRS, strict=True):
        asked, first, second = (question for question in record.questions if question.about != "neighbourhood")
        assert asked.about == "efficacy" and asked.text == f"{subject} lies in" and asked.rival == true
        assert asked.answers[0] in {object for _, object in PAIRS} - {true}
        assert (first.about, first.text, second.text) == (
            "paraphrase",
            f"The land of {subject} is",
            f"Where is {subject}? In",
        )


def test_neighbours_share_the_object_first_and_never_have_the_new_one(found: DataSet) -> None:
    lands = dict(PAIRS)
    for record in found.records:
        (fact,) = record.edits
        neighbours = list(record.of("neighbourhood"))
        towns = [question.text.removesuffix(" lies in") for question in neighbours]
        assert len(set(towns)) == lre.NEIGHBOURS and fact.subject not in towns
        same = [lands[town] == fact.target_true for town in towns]
        assert sum(same) == list(lands.values()).count(fact.target_true) - 1 and same == sorted(same, reverse=True)
        assert all(question.answers == (lands[town],) for question, town in zip(neighbours, towns, strict=True))
        assert all(question.rival == fact.target_new not in question.answers for question in neighbours)


def test_the_drawn_target_depends_on_names_alone(found: DataSet, written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(None, written(relation())).records == found.records
    turned = read(None, written(relation(PAIRS[::-1]))).records
    assert [record.edits for record in turned][::-1] == [record.edits for record in found.records]
    drawn = {record.edits[0].target_new for record in found.records}
    assert len(drawn) > 1
    monkeypatch.setattr(lre, "SEED", 1)
    assert [record.edits for record in read(None, written(relation())).records] != [one.edits for one in found.records]


def test_a_subject_with_several_objects_gets_none_of_them(written: Any) -> None:
    data = read("lre", written(relation([*PAIRS, ("Town A", "Land 1"), ("Town A", "LAND 2")])))
    assert len(data.records) == len(PAIRS)
    assert [one.reason for one in data.malformed] == ["the subject 'Town A' is that of line 15 again"] * 2
    assert data.records[0].edits[0].target_new == "Land 3"
    asked = [(record.edits[0], question) for record in data.records for question in record.of("neighbourhood")]
    about_it = [(fact, question) for fact, question in asked if question.text == "Town A lies in"]
    assert about_it
    for fact, question in about_it:
        assert set(question.answers) == {"Land 0", "Land 1", "LAND 2"} and fact.target_new not in question.answers
        assert fact.target_true == question.answers[0] or fact.target_true not in question.answers


def test_what_is_wrong_is_told_with_its_line(written: Any) -> None:
    samples = [
        {"subject": "Town A", "object": "Land 0"},
        {"subject": "Town B"},
        "Town C",
        {"subject": "D", "object": "L"},
    ]
    path = written(relation(samples=samples))
    data = read(None, path)
    lines = path.read_text().split("\n")
    assert len(data.records) == 2
    missing, text = data.malformed
    begins = lines.index('   "subject": "Town B"'), lines.index('  "Town C",') + 1
    assert (missing.place, text.place) == tuple(f"line {line}" for line in begins)
    assert "'object'" in missing.reason and "not str" in text.reason


def test_one_object_leaves_nothing_to_draw(written: Any) -> None:
    with pytest.raises(BenchError, match="no other object"):
        read(None, written(relation([("Town A", "Land"), ("Town B", "land")])))


@pytest.mark.parametrize("changed", [{"prompt_templates": ["It lies in"]}, {"prompt_templates": ["{} is {}"]}])
def test_a_template_without_its_place(written: Any, changed: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match=r"has not one \{\}"):
        read(None, written(relation(**changed, prompt_templates_zs=[])))


def test_a_folder_of_relations(written: Any, tmp_path: Path) -> None:
    written(relation(), "b.json")
    written(relation(PAIRS[:5], name="other"), "a.json")
    written([1], "c.json")
    (tmp_path / "notes.txt").write_text("no relation")
    data = read("lre", tmp_path)
    assert [record.id for record in data.records][:6] == [f"other/Town {letter}" for letter in "ABCDE"] + [
        "town land/Town A"
    ]
    (malformed,) = data.malformed
    assert malformed.place == "c.json, line 1" and "no relation" in malformed.reason
    assert data.name == tmp_path.name
    before = data.sha256
    (tmp_path / "a.json").rename(tmp_path / "d.json")
    assert read(None, tmp_path).sha256 != before


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    for schema in (None, "zsre"):
        with pytest.raises(StorageError, match="it is a folder"):
            read(schema, tmp_path)


def test_a_template_without_its_place_leaves_the_others(written: Any) -> None:
    path = written(relation(prompt_templates=["no place", "{} lies in", "{} é {}", "The land of {} is"]))
    data = read(None, path)
    assert len(data.records) == len(PAIRS) and data.records[0].questions[0].text == f"{PAIRS[0][0]} lies in"
    lines = path.read_text().split("\n")
    wrong = [number for number, line in enumerate(lines, 1) if "no place" in line or "{} \\u00e9" in line]
    assert [one.place for one in data.malformed] == [f"line {number}" for number in wrong]
    assert all("has not one {}" in one.reason for one in data.malformed)
