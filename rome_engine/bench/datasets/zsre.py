"""zsRE for editing (Levy et al. 2017; De Cao et al. 2021; Mitchell et al. 2022), with or without portability questions.

The unrelated question comes from Natural Questions, in which "nq question: " stands before it and nothing after. As in
ROME's evaluation that stays, and a question mark comes behind it. What is learnt is `alt`, another answer than the true
one; ROME's and MEMIT's own tables learn the true one, `answers[0]`, and are of other edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rome_engine.bench.datasets.asked import learnt, record_of
from rome_engine.bench.datasets.dataset import Schema
from rome_engine.bench.datasets.fields import mapping, text
from rome_engine.bench.record import Question, Record
from rome_engine.fact_files import schemas


def record(content: Mapping[str, Any], id: str) -> Record:
    """One question: efficacy and paraphrase, locality on the unrelated question, portability on what follows."""
    return record_of(learnt(schemas.fact(content)), id, *_others(content))


def _others(content: Mapping[str, Any]) -> Iterator[Question]:
    if content.get("loc") is not None:
        asked = text(content, "loc")
        yield Question("locality", asked if asked.endswith("?") else f"{asked}?", (text(content, "loc_ans"),))
    follows = mapping(content, "portability")
    if follows:
        yield Question("portability", text(follows, "New Question"), (text(follows, "New Answer"),))


SCHEMA = Schema("zsre", ("src alt",), record)
