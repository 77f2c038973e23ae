"""zsRE: the unrelated question is a question, and what follows is asked too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rome_engine.bench.datasets import read
from rome_engine.bench.record import Question, Record

ZSRE: dict[str, Any] = {
    "subject": "Mount Foo",
    "src": "In which range is Mount Foo?",
    "pred": "Alps",
    "rephrase": "Mount Foo is part of which range?",
    "alt": "Andes",
    "answers": ["Urals", "Ural Mountains"],
    "loc": "nq question: who painted the ceiling",
    "loc_ans": "Nobody knows",
    "cond": "Alps >> Andes || In which range is Mount Foo?",
    "portability": {
        "Recalled Relation": "(Andes, continent, South America)",
        "New Question": "On which continent is Mount Foo's range?",
        "New Answer": "South America",
    },
}


def test_every_question(read_one: Callable[[Any], Record]) -> None:
    record = read_one(ZSRE)
    assert record.id == "1"
    assert record.questions == (
        Question("efficacy", "In which range is Mount Foo?", ("Andes",), "Urals"),
        Question("paraphrase", "Mount Foo is part of which range?", ("Andes",), "Urals"),
        Question("locality", "nq question: who painted the ceiling?", ("Nobody knows",)),
        Question("portability", "On which continent is Mount Foo's range?", ("South America",)),
    )


def test_the_published_file_has_no_portability(read_one: Callable[[Any], Record]) -> None:
    record = read_one({name: value for name, value in ZSRE.items() if name != "portability"})
    assert not list(record.of("portability")) and len(record.questions) == 3


def test_a_question_mark_is_not_doubled(read_one: Callable[[Any], Record]) -> None:
    (locality,) = read_one({**ZSRE, "loc": "Who painted it?"}).of("locality")
    assert locality.text == "Who painted it?"


def test_learning_what_is_true_has_no_rival(read_one: Callable[[Any], Record]) -> None:
    record = read_one({**ZSRE, "answers": ["Andes"]})
    assert {question.rival for question in record.questions} == {None}
    assert record.edits[0].target_new == "Andes" and record.edits[0].target_true is None


def test_what_would_be_misread_is_told(written: Callable[..., Path]) -> None:
    text = json.dumps(ZSRE)
    (malformed,) = read("zsre", written(f'[{text}, {text[:-1]}, "subject": "Mount Bar"}}]')).malformed
    assert "the field 'subject' stands twice" in malformed.reason
    (malformed,) = read("zsre", written([ZSRE, {**ZSRE, "rephrase": ["a?", "b?"]}])).malformed
    assert "'rephrase' is neither a text nor a number" in malformed.reason


def test_what_is_missing(refused: Callable[[Any, Any], str]) -> None:
    assert "'loc_ans'" in refused(ZSRE, {**ZSRE, "loc_ans": None})
    assert "'New Answer'" in refused(ZSRE, {**ZSRE, "portability": {"New Question": "What?"}})
    assert "'portability' is no object" in refused(ZSRE, {**ZSRE, "portability": "yes"})
    assert "does not occur" in refused(ZSRE, {**ZSRE, "subject": "Mount Bar"})
