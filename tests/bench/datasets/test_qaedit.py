"""QAEdit: questions as they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rome_engine.bench.record import Question, Record

QAEDIT: dict[str, Any] = {
    "id": 77,
    "source": "NQ",
    "prompt": "who built the red bridge?",
    "target": " Ada Stone ",
    "subject": "red bridge",
    "rephrase": "By whom was the red bridge built?",
    "locality": [{"loc": "when is the fair", "loc_ans": "in May"}, {"loc": "who sang it", "loc_ans": "Bo"}],
}


def test_every_question(read_one: Callable[[Any], Record]) -> None:
    record = read_one(QAEDIT)
    assert record.id == "77" and record.edits[0].prompt == "who built the {}?"
    assert record.questions == (
        Question("efficacy", "who built the red bridge?", ("Ada Stone",)),
        Question("paraphrase", "By whom was the red bridge built?", ("Ada Stone",)),
        Question("locality", "when is the fair", ("in May",)),
        Question("locality", "who sang it", ("Bo",)),
    )


def test_a_subject_that_cannot_be_found(refused: Callable[[Any, Any], str]) -> None:
    assert "does not occur" in refused(QAEDIT, {**QAEDIT, "subject": "blue bridge"})
    assert "occurs 2 times" in refused(QAEDIT, {**QAEDIT, "subject": "b"})
    assert "'target'" in refused(QAEDIT, {**QAEDIT, "target": 7})
