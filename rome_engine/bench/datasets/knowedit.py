"""KnowEdit's wiki sets (Zhang et al. 2024, arXiv 2401.01286): WikiData counterfact and recent, and its zsRE.

Portability and locality come in kinds, which are kept behind a colon. All ways to say any of a question's answers are
answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rome_engine.bench.datasets.asked import learnt, record_of
from rome_engine.bench.datasets.dataset import Schema
from rome_engine.bench.datasets.fields import mapping, objects, text, texts
from rome_engine.bench.record import Question, Record
from rome_engine.facts import Fact


def record(content: Mapping[str, Any], id: str) -> Record:
    """One fact: efficacy, paraphrase where there is one, portability:KIND and locality:KIND."""
    true = texts(content, "ground_truth")
    fact = Fact.of(
        text(content, "prompt"),
        text(content, "subject"),
        target_true=true[0] if true else None,
        target_new=text(content, "target_new"),
        paraphrases=(*texts(content, "rephrase"), *texts(content, "rephrase_prompt")),
    )
    return record_of(learnt(fact), id, *_kinds(content, "portability"), *_kinds(content, "locality"))


def _kinds(content: Mapping[str, Any], role: str) -> Iterator[Question]:
    kinds = mapping(content, role)
    for kind in kinds:
        for one in objects(kinds, kind):
            answers = texts(one, "ground_truth")
            if answers:  # an empty list says that nobody knows
                yield Question(f"{role}:{kind}", text(one, "prompt"), answers)


SCHEMA = Schema("knowedit", ("target_new locality", "target_new portability"), record)
