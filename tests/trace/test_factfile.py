"""Fact files: every schema read as it is meant, and every record that cannot be used told with its number."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rome_engine.errors import PromptError, StorageError
from rome_engine.facts import Fact
from rome_engine.resources import data_file
from rome_engine.trace.factfile import read_facts

OWN = {"prompt": "{} is in", "subject": "The Louvre", "target_true": "Paris", "id": "louvre", "paraphrases": ["Where?"]}
KNOWN = {
    "known_id": 0,
    "subject": "Vinson Massif",
    "attribute": "Antarctica",
    "template": "{} is located in the continent",
    "prediction": " of Antarctica. It is",
    "prompt": "Vinson Massif is located in the continent of",
    "relation_id": "P30",
}
COUNTERFACT = {
    "case_id": 20952,
    "requested_rewrite": {
        "prompt": "{} is located in",
        "relation_id": "P30",
        "target_new": {"str": "Antarctica", "id": "Q51"},
        "target_true": {"str": "Africa", "id": "Q15"},
        "subject": "Angola",
    },
    "paraphrase_prompts": ["A plaque. Angola belongs to"],
    "neighborhood_prompts": ["Ghana is in"],
}


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(content: Any, name: str = "facts.json") -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def test_the_three_schemas(written: Any) -> None:
    path = written([OWN, KNOWN, COUNTERFACT])
    found = read_facts(path)
    assert [number for number, _ in found.facts] == [1, 2, 3] and not found.malformed and found.records == 3
    own, known, counterfact = (fact for _, fact in found.facts)
    assert own == Fact.from_dict(OWN)
    assert known == Fact(
        "{} is located in the continent of", "Vinson Massif", target_true="Antarctica", relation="P30", id="0"
    )
    assert counterfact == Fact(
        "{} is located in", "Angola", target_true="Africa", target_new="Antarctica", relation="P30", id="20952"
    )
    assert found.name == "facts.json" and found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_lines_are_the_same_facts(written: Any) -> None:
    lines = "\n".join(json.dumps(record) for record in (OWN, KNOWN, COUNTERFACT)) + "\n\n"
    assert read_facts(written(lines, "facts.jsonl")).facts == read_facts(written([OWN, KNOWN, COUNTERFACT])).facts
    marked = written("\ufeff" + lines.replace("\n", "\r\n"), "marked.jsonl")  # as some editors save
    assert read_facts(marked).facts == read_facts(written([OWN, KNOWN, COUNTERFACT])).facts


def test_the_packages_own_facts() -> None:
    found = read_facts(data_file("facts.json"))
    assert found.records > 20 and not found.malformed
    assert all(fact.target_true for _, fact in found.facts)


MALFORMED = [
    ({**KNOWN, "subject": "Everest"}, "does not occur"),
    ({**KNOWN, "prompt": "Vinson Massif is Vinson Massif in"}, "occurs 2 times"),
    ({**KNOWN, "subject": " "}, "'subject' is no text"),
    ({**KNOWN, "subject": None}, "has no text 'subject'"),
    ({**KNOWN, "attribute": 3}, "'attribute' is no text: 3"),
    ({**OWN, "prompt": "no place"}, "does not occur"),
    ({**OWN, "prompt": "{} and {}"}, "exactly once"),
    ({**OWN, "color": "red"}, "unknown fields color"),
    ({**OWN, "target_true": ["Paris"], "subject": 4}, "of a fact is no text"),
    ({**OWN, "target_true": ["Paris"]}, "'target_true'"),
    ({**OWN, "paraphrases": "Where?"}, "'paraphrases'"),
    ({}, "has no text 'prompt'"),
    ([OWN], "not list"),
    (None, "not NoneType"),
    ("{} is in", "not str"),
    ({**COUNTERFACT, "requested_rewrite": []}, "no object 'requested_rewrite'"),
    (
        {**COUNTERFACT, "requested_rewrite": {**COUNTERFACT["requested_rewrite"], "target_true": "Africa"}},
        "target_true",
    ),  # type: ignore[dict-item]
]


@pytest.mark.parametrize(("record", "said"), MALFORMED)
def test_a_malformed_record_is_told_and_the_rest_goes_on(written: Any, record: Any, said: str) -> None:
    found = read_facts(written([OWN, record, KNOWN]))
    assert [number for number, _ in found.facts] == [1, 3] and found.records == 3
    (malformed,) = found.malformed
    assert malformed.number == 2 and said in malformed.reason and "\n" not in malformed.reason


def test_a_broken_line_is_a_malformed_record(written: Any) -> None:
    found = read_facts(written(f"{json.dumps(OWN)}\n{{broken\n{json.dumps(KNOWN)}", "facts.jsonl"))
    assert [number for number, _ in found.facts] == [1, 3]
    assert found.malformed[0].number == 2 and "no JSON" in found.malformed[0].reason


def test_files_that_cannot_be_used(written: Any, tmp_path: Path) -> None:
    for content, said in (("{broken", "it is no JSON"), (json.dumps(OWN) + "\n" + json.dumps(KNOWN), "facts.jsonl")):
        with pytest.raises(StorageError, match=said):
            read_facts(written(content))
    with pytest.raises(StorageError, match="is a list of objects"):
        read_facts(written(OWN))
    with pytest.raises(StorageError, match="no JSON"):
        read_facts(written("[" * 100_000))
    with pytest.raises(StorageError, match="check the path"):
        read_facts(tmp_path / "none.json")
    with pytest.raises(StorageError, match="cannot read"):
        read_facts(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StorageError, match="no UTF-8"):
        read_facts(tmp_path / "binary.json")
    with pytest.raises(PromptError, match=r"no usable fact among the 2 records of .*; the first one: a record is"):
        read_facts(written([3, 4]))
    with pytest.raises(PromptError, match="no usable fact among the 0 records"):
        read_facts(written([]))
