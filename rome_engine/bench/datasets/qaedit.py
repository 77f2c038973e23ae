"""QAEdit (Yang et al. 2025, arXiv 2502.11177): questions of question-answering sets, for answers in free text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rome_engine.bench.datasets.asked import record_of
from rome_engine.bench.datasets.dataset import Schema
from rome_engine.bench.datasets.fields import objects, text, texts
from rome_engine.bench.record import Question, Record
from rome_engine.facts import Fact


def record(content: Mapping[str, Any], id: str) -> Record:
    """One question: efficacy, paraphrase, and locality on unrelated questions, each asked as it is written."""
    fact = Fact.of(
        text(content, "prompt"),
        text(content, "subject"),
        target_new=text(content, "target"),
        paraphrases=texts(content, "rephrase"),
        id=None if content.get("id") is None else str(content["id"]),
    )
    unrelated = (
        Question("locality", text(one, "loc"), (text(one, "loc_ans"),)) for one in objects(content, "locality")
    )
    return record_of(fact, id, *unrelated)


SCHEMA = Schema("qaedit", ("prompt target subject",), record)
