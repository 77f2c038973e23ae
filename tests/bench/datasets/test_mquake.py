"""MQuAKE: all edits of a case, and its questions with their aliases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rome_engine.bench.record import Question, Record


def edit(prompt: str, subject: str, true: str, new: str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "relation_id": "P1",
        "target_new": {"str": new, "id": "Q1"},
        "target_true": {"str": true, "id": "Q2"},
        "subject": subject,
        "question": f"What of {subject}?",
    }


MQUAKE: dict[str, Any] = {
    "case_id": 12,
    "requested_rewrite": [
        edit("{} was written by", "The Long Song", "Ana", "Bo"),
        edit("{} lives in", "Bo", "Peru", "Chad"),
    ],
    "questions": ["Where does the writer of The Long Song live?", "In which country is its writer at home?"],
    "answer": "Peru",
    "answer_alias": ["PE"],
    "new_answer": "Chad",
    "new_answer_alias": ["Tchad", "Republic of Chad"],
    "single_hops": [{"question": "Who wrote The Long Song?", "cloze": "The Long Song is by", "answer": "Ana"}],
    "new_single_hops": [
        {"question": "Who wrote The Long Song?", "cloze": "The Long Song is by", "answer": "Bo", "answer_alias": []},
        {"question": "Where does Bo live?", "cloze": "Bo lives in", "answer": "Chad", "answer_alias": ["Tchad"]},
    ],
    "orig": {"triples": []},
}


def test_a_case(read_one: Callable[[Any], Record]) -> None:
    record = read_one(MQUAKE)
    chad = ("Chad", "Tchad", "Republic of Chad")
    assert record.id == "12"
    assert [(fact.subject, fact.target_new) for fact in record.edits] == [("The Long Song", "Bo"), ("Bo", "Chad")]
    assert record.questions == (
        Question("efficacy", "The Long Song was written by", ("Bo",), "Ana"),
        Question("efficacy", "Bo lives in", ("Chad",), "Peru"),
        Question("single-hop", "Who wrote The Long Song?", ("Bo",)),
        Question("single-hop", "Where does Bo live?", ("Chad", "Tchad")),
        Question("multi-hop", "Where does the writer of The Long Song live?", chad, "Peru"),
        Question("multi-hop", "In which country is its writer at home?", chad, "Peru"),
    )


def test_what_is_missing(refused: Callable[[Any, Any], str]) -> None:
    assert "no edit" in refused(MQUAKE, {**MQUAKE, "requested_rewrite": []})
    assert "'new_answer'" in refused(MQUAKE, {**MQUAKE, "new_answer": None})
    same = edit("{} lives in", "Bo", "Peru", "Peru")
    assert "true one" in refused(MQUAKE, {**MQUAKE, "requested_rewrite": [same]})
    assert "list of objects" in refused(MQUAKE, {**MQUAKE, "new_single_hops": ["Who?"]})


def test_counterfacts_single_edit_is_no_case(refused: Callable[[Any, Any], str]) -> None:
    assert "list of objects" in refused(MQUAKE, {**MQUAKE, "requested_rewrite": MQUAKE["requested_rewrite"][0]})
