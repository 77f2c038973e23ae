"""MQuAKE (Zhong et al. 2023, arXiv 2305.14795): several edits a case, and questions that take several steps.

The multi-hop questions of a case are paraphrases of one another. Single hops are asked as questions, with the answers
that hold after the edits; the edits' own prompts are the cloze form of those that change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rome_engine.bench.datasets.asked import efficacy, targeted
from rome_engine.bench.datasets.dataset import Schema
from rome_engine.bench.datasets.fields import mapping, objects, text, texts
from rome_engine.bench.record import Question, Record
from rome_engine.errors import PromptError
from rome_engine.facts import Fact


def record(content: Mapping[str, Any], id: str) -> Record:
    """One case: efficacy of every edit, single-hop, and multi-hop, whose rival is the answer before the edits."""
    facts = tuple(_fact(edit) for edit in objects(content, "requested_rewrite"))
    if not facts:
        raise PromptError("the record has no edit in 'requested_rewrite'")
    case = content.get("case_id")
    return Record(id if case is None else str(case), facts, (*map(efficacy, facts), *_hops(content)))


def _fact(edit: Mapping[str, Any]) -> Fact:
    fact = Fact.of(
        text(edit, "prompt"),
        text(edit, "subject"),
        target_true=text(mapping(edit, "target_true"), "str"),
        target_new=text(mapping(edit, "target_new"), "str"),
        relation=(*texts(edit, "relation_id"), None)[0],
    )
    return targeted(fact)


def _hops(content: Mapping[str, Any]) -> Iterator[Question]:
    for hop in objects(content, "new_single_hops"):
        yield Question("single-hop", text(hop, "question"), (text(hop, "answer"), *texts(hop, "answer_alias")))
    answers = (text(content, "new_answer"), *texts(content, "new_answer_alias"))
    before = texts(content, "answer")
    for question in texts(content, "questions"):
        yield Question("multi-hop", question, answers, before[0] if before else None)


SCHEMA = Schema("mquake", ("requested_rewrite questions",), record)
