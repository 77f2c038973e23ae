"""Fact files: every schema read as it is meant, and every record that cannot be used told with its number."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from rome_engine.errors import PromptError, StorageError
from rome_engine.fact_files import read_facts
from rome_engine.facts import Fact
from rome_engine.resources import data_file

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
ASKED = {
    "prompt": "{} is located in",
    "relation_id": "P30",
    "target_new": {"str": "Antarctica", "id": "Q51"},
    "target_true": {"str": "Africa", "id": "Q15"},
    "subject": "Angola",
}
COUNTERFACT = {
    "case_id": 20952,
    "pararel_idx": 5,
    "requested_rewrite": ASKED,
    "paraphrase_prompts": ["A plaque. Angola belongs to"],
    "neighborhood_prompts": ["Ghana is in", "Mali is in"],
    "attribute_prompts": ["Ross Island is in"],
    "generation_prompts": ["Angola's coast"],
}
FLAT = {
    "case_id": 7,
    "prompt": "The tongue of Edith Piaf is",
    "subject": "Edith Piaf",
    "target_new": "Danish",
    "ground_truth": "French",
    "rephrase_prompt": "Where Edith Piaf lived, people ate",
    "locality_prompt": "The tongue of Voltaire is",
    "locality_ground_truth": "French",
}
ZSRE = {
    "subject": "Halley's Comet",
    "src": "Who gave Halley's Comet its name?",
    "pred": "Newton",
    "rephrase": "By whom was Halley's Comet named?",
    "alt": "Tycho Brahe",
    "answers": ["Edmond Halley", "Halley"],
    "loc": "nq question: who wrote the song",
    "loc_ans": "Nobody",
    "cond": "Newton >> Tycho Brahe || Who gave Halley's Comet its name?",
}
ALL = [OWN, KNOWN, COUNTERFACT, FLAT, ZSRE]


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(content: Any, name: str = "facts.json") -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


def test_every_schema(written: Any) -> None:
    path = written(ALL)
    found = read_facts(path)
    assert [number for number, _ in found.facts] == [1, 2, 3, 4, 5] and not found.malformed and found.records == 5
    own, known, counterfact, flat, zsre = (fact for _, fact in found.facts)
    assert own == Fact.from_dict(OWN)
    assert known == Fact(
        "{} is located in the continent of", "Vinson Massif", target_true="Antarctica", relation="P30", id="0"
    )
    assert counterfact == Fact(
        "{} is located in",
        "Angola",
        target_true="Africa",
        target_new="Antarctica",
        paraphrases=("A plaque. Angola belongs to",),
        neighbourhood=("Ghana is in", "Mali is in"),
        generation=("Angola's coast",),
        relation="P30",
        id="20952",
    )
    assert flat == Fact(
        "The tongue of {} is",
        "Edith Piaf",
        target_true="French",
        target_new="Danish",
        neighbourhood=("The tongue of Voltaire is",),
        generation=("Where Edith Piaf lived, people ate",),
        id="7",
    )
    assert zsre == Fact(
        "Who gave {} its name?",
        "Halley's Comet",
        target_true="Edmond Halley",
        target_new="Tycho Brahe",
        paraphrases=("By whom was Halley's Comet named?",),
    )
    assert found.name == "facts.json" and found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_neighbour_with_another_answer_is_none(written: Any) -> None:
    ((_, flat),) = read_facts(written([{**FLAT, "locality_ground_truth": "Italian"}])).facts
    assert flat.neighbourhood == ()


def test_lines_are_the_same_facts(written: Any) -> None:
    lines = "\n".join(json.dumps(record) for record in ALL) + "\n\n"
    assert read_facts(written(lines, "facts.jsonl")).facts == read_facts(written(ALL)).facts
    marked = written("\ufeff" + lines.replace("\n", "\r\n"), "marked.jsonl")  # as some editors save
    assert read_facts(marked).facts == read_facts(written(ALL)).facts


def test_a_table_is_the_same_facts(written: Any) -> None:
    table = (
        "prompt,subject,target_true,id,paraphrases,neighbourhood\n"
        "{} is in,The Louvre,Paris,louvre,Where?,\n"
        '\n"Where, pray, is {}",The Tate,,,"Find | Go to ","[""one, two"", ""a | b""]"\n'
        '"{}\nis in",Rome,[sic],,,[broken\n'
    )
    found = read_facts(written(table, "facts.csv"))
    first, second, third = (fact for _, fact in found.facts)
    assert first == Fact.from_dict(OWN)
    assert second == Fact(
        "Where, pray, is {}", "The Tate", paraphrases=("Find", "Go to"), neighbourhood=("one, two", "a | b")
    )
    assert third == Fact("{}\nis in", "Rome", target_true="[sic]", neighbourhood=("[broken",))
    assert found.lines == ((1, 2), (2, 4), (3, 5))


@pytest.mark.parametrize("schema", [OWN, FLAT, KNOWN, ZSRE])
def test_each_flat_schema_can_be_a_table(written: Any, schema: dict[str, Any]) -> None:
    text = io.StringIO()
    rows = csv.DictWriter(text, list(schema))
    rows.writeheader()
    rows.writerow({name: json.dumps(value) if isinstance(value, list) else value for name, value in schema.items()})
    assert read_facts(written(text.getvalue(), "facts.csv")).facts == read_facts(written([schema])).facts


def test_texts_with_bars_are_lists_in_every_schema(written: Any) -> None:
    table = "subject,src,alt,answers\nRome,Where is Rome?,Spain,Italy | Lazio\n"
    ((_, fact),) = read_facts(written(table, "facts.csv")).facts
    assert fact.target_true == "Italy"


@pytest.mark.parametrize(
    ("twice", "said"),
    [
        ('{"prompt": "{} is in", "subject": "Rome", "target_new": "a", "target_new": "b"}', "target_new"),
        ('{"requested_rewrite": {"subject": "Rome", "subject": "Bonn"}}', "subject"),
        ('{"prompt": "{} is in", "subject": "Rome", "paraphrases": [{"id": 1, "id": 2}]}', "id"),
    ],
)
def test_a_field_that_stands_twice_is_told(written: Any, twice: str, said: str) -> None:
    own = json.dumps(OWN)
    for content, name in ((f"[{own}, {twice}]", "facts.json"), (f"{own}\n{twice}", "facts.jsonl")):
        found = read_facts(written(content, name))
        assert [number for number, _ in found.facts] == [1]
        assert found.malformed[0].reason == f"the field {said!r} stands twice in one object: leave one of them"


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
    ({**KNOWN, "color": "red", "age": 3}, "unknown fields age, color: known are attribute"),
    ({**COUNTERFACT, "color": "red"}, "unknown fields color"),
    ({**FLAT, "color": "red"}, "unknown fields color"),
    ({**ZSRE, "color": "red"}, "unknown fields color"),
    ({**COUNTERFACT, "requested_rewrite": {**ASKED, "color": 1}}, "unknown fields color in 'requested_rewrite': known"),
    ({**COUNTERFACT, "requested_rewrite": {**ASKED, "target_new": {"str": "x", "color": 1}}}, "color in 'target_new'"),
    ({**COUNTERFACT, "requested_rewrite": {**ASKED, "target_true": {"str": "x", "i d": 1}}}, "i d in 'target_true'"),
    ({**ZSRE, "subject": "Halley's Comets"}, "does not occur"),
    ({**ZSRE, "alt": None}, "has no text 'alt'"),
    ({**ZSRE, "answers": "Halley"}, "'answers' is no list of texts"),
    ({**FLAT, "subject": "e"}, "occurs 2 times"),
    ({**OWN, "target_true": ["Paris"], "subject": 4}, "of a fact is no text"),
    ({**OWN, "target_true": ["Paris"]}, "'target_true'"),
    ({**OWN, "paraphrases": "Where?"}, "'paraphrases'"),
    ({}, "has no text 'prompt'"),
    ([OWN], "not list"),
    (None, "not NoneType"),
    ("{} is in", "not str"),
    ({**COUNTERFACT, "requested_rewrite": []}, "no object 'requested_rewrite'"),
    ({**COUNTERFACT, "requested_rewrite": {**ASKED, "target_true": "Africa"}}, "target_true"),
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


def test_where_a_record_stands_is_told(written: Any) -> None:
    found = read_facts(written(f"\n{json.dumps(OWN)}\n\n{{broken\n", "facts.jsonl"))
    assert found.malformed[0].place == "line 4" and found.malformed[0].number == 2
    assert read_facts(written([OWN, 3])).malformed[0].place == "record 2"
    table = "prompt,subject,alt\n{} is in,Rome\n{} is in,Rome,Bonn\n{} is in,Rome,,4\n"
    found = read_facts(written(table, "facts.csv"))
    assert [(one.place, one.reason.partition(":")[0]) for one in found.malformed] == [
        ("line 3", "unknown fields alt in a fact"),
        ("line 4", "the row has 4 cells under 3 columns"),
    ]


def test_files_that_cannot_be_used(written: Any, tmp_path: Path) -> None:
    for content, said in (("{broken", "it is no JSON"), (json.dumps(OWN) + "\n" + json.dumps(KNOWN), "facts.jsonl")):
        with pytest.raises(StorageError, match=said):
            read_facts(written(content))
    with pytest.raises(StorageError, match="is a list of objects"):
        read_facts(written(OWN))
    with pytest.raises(StorageError, match="no JSON"):
        read_facts(written("[" * 100_000))
    for table, said in (
        ("a,a\n1,2", "none twice"),
        ("a,\n1,2", "name each column"),
        ('prompt,src\n"x"y,', "line 2 is no CSV"),
        ("prompt,subject,colour\n{} is in,Rome,\n", "unknown columns colour: known are .*, prompt, "),
    ):
        with pytest.raises(StorageError, match=said):
            read_facts(written(table, "facts.csv"))
    with pytest.raises(PromptError, match="no usable fact among the 0 records"):
        read_facts(written("", "facts.csv"))
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
