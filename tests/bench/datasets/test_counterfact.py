"""CounterFact in both schemas: which prompt has which role, and that the targets compete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rome_engine.bench.record import Question, Record

ORIGINAL: dict[str, Any] = {
    "case_id": 31,
    "pararel_idx": 4,
    "requested_rewrite": {
        "prompt": "{} flows into",
        "relation_id": "P403",
        "target_new": {"str": "the Baltic", "id": "Q1"},
        "target_true": {"str": "the Black Sea", "id": "Q2"},
        "subject": "The Danube",
    },
    "paraphrase_prompts": ["A boat left. The Danube ends in"],
    "neighborhood_prompts": ["The Dniester flows into", "The Don reaches"],
    "attribute_prompts": ["The Oder flows into"],
    "generation_prompts": ["Along The Danube", "Along The Danube"],
}
FLAT: dict[str, Any] = {
    "case_id": 0,
    "prompt": "The Danube flows into",
    "subject": "The Danube",
    "target_new": "the Baltic",
    "ground_truth": "the Black Sea",
    "rephrase_prompt": "Along The Danube",
    "locality_prompt": "The Dniester flows into",
    "locality_ground_truth": "the Black Sea",
}


def test_the_original_schema(read_one: Callable[[Any], Record]) -> None:
    record = read_one(ORIGINAL)
    new, true = "the Baltic", "the Black Sea"
    assert record.id == "31"
    assert record.questions == (
        Question("efficacy", "The Danube flows into", (new,), true),
        Question("paraphrase", "A boat left. The Danube ends in", (new,), true),
        Question("neighbourhood", "The Dniester flows into", (true,), new),
        Question("neighbourhood", "The Don reaches", (true,), new),
    )
    assert record.generation == ("Along The Danube", "Along The Danube")
    (fact,) = record.edits
    assert (fact.prompt, fact.subject, fact.target_new, fact.relation) == ("{} flows into", "The Danube", new, "P403")


def test_the_flat_schemas_rephrased_prompt_is_no_paraphrase(read_one: Callable[[Any], Record]) -> None:
    record = read_one(FLAT)
    assert not list(record.of("paraphrase")) and record.generation == ("Along The Danube",)
    assert [question.about for question in record.questions] == ["efficacy", "neighbourhood"]


def test_a_neighbour_with_another_answer_is_none(read_one: Callable[[Any], Record]) -> None:
    record = read_one({**FLAT, "locality_ground_truth": "the Aegean"})
    assert [question.about for question in record.questions] == ["efficacy"]


def test_what_cannot_be_edited(refused: Callable[[Any, Any], str]) -> None:
    assert "true one" in refused(FLAT, {**FLAT, "target_new": " the Black Sea"})
    assert "'target_new'" in refused(FLAT, {**FLAT, "target_new": ""})
    assert "does not occur" in refused(FLAT, {**FLAT, "subject": "The Rhine"})
    rewrite = {**ORIGINAL["requested_rewrite"], "target_new": {}}
    assert "'str'" in refused(ORIGINAL, {**ORIGINAL, "requested_rewrite": rewrite})


def test_a_neighbour_in_the_place_of_the_subject_is_filled_in(read_one: Callable[[Any], Record]) -> None:
    record = read_one({**FLAT, "locality_prompt": "Beside {} lies"})
    (asked,) = record.of("neighbourhood")
    assert "{}" not in asked.text and asked.text == f"Beside {record.edits[0].subject} lies"
