"""RippleEdits: an edit's sentence taken apart, and its tests as locality and portability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rome_engine.bench.record import Question, Record


def query(prompt: str, *names: str, target: str = "Q5", type: str = "regular") -> dict[str, Any]:
    value, *aliases = names or ("",)
    return {
        "prompt": prompt,
        "answers": [{"value": value, "aliases": aliases}],
        "query_type": type,
        "subject_id": "Q1",
        "relation": "MOTHER",
        "target_ids": [target],
        "phrase": None,
    }


def case(*queries: dict[str, Any]) -> dict[str, Any]:
    return {"test_queries": list(queries), "test_condition": "OR", "condition_queries": [query("Unasked is", "No")]}


def ripple(sentence: str, before: str | None = None, **kinds: Any) -> dict[str, Any]:
    edit: dict[str, Any] = {"prompt": sentence, "subject_id": "Q1", "relation": "MOTHER", "target_id": "Q9"}
    if before is not None:
        edit["original_fact"] = {"prompt": before, "subject_id": "Q1", "relation": "MOTHER", "target_id": "Q8"}
    return {"example_type": "popular", "edit": edit, **kinds}


def test_a_record(read_one: Callable[[Any], Record]) -> None:
    record = read_one(
        ripple(
            "The name of the mother of Ada Foo is Bea.",
            "The name of the mother of Ada Foo is Cleo.",
            Relation_Specificity=[case(query("The eye color of Ada Foo is", "green", "g", "7"))],
            Logical_Generalization=[case(query("The siblings of Ada Foo are", "Di", "Di Foo"))],
            Subject_Aliasing=[case(query("The name of the mother of Addie is", "Bea"))],
            Compositionality_I=[case(query("The mother's age is", "60"), query("The mother's town is", "Ulm"))],
            Compositionality_II=[],
            Forgetfulness=[case(query("The name of nobody is"))],
        )
    )
    (fact,) = record.edits
    assert (fact.prompt, fact.subject) == ("The name of the mother of {} is", "Ada Foo")
    assert (fact.target_new, fact.target_true, fact.relation) == ("Bea", "Cleo", "MOTHER")
    assert record.questions == (
        Question("efficacy", "The name of the mother of Ada Foo is", ("Bea",), "Cleo"),
        Question("locality:Relation_Specificity", "The eye color of Ada Foo is", ("green", "7")),
        Question("portability:Logical_Generalization", "The siblings of Ada Foo are", ("Di", "Di Foo")),
        Question("portability:Subject_Aliasing", "The name of the mother of Addie is", ("Bea",)),
        Question("portability:Compositionality_I", "The mother's age is", ("60",)),
        Question("portability:Compositionality_I", "The mother's town is", ("Ulm",)),
    )


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The name of the country of citizenship of {} is", "Ada of Foo"),
        ("The name of the head of state of {} is", "Foo"),
        ("The place of birth of {} is", "Ada"),
        ("The gender of {} is", "Ada"),
        ("The names of the cast members of {} are", "The Life of Bo"),
        ("The number of children {} has is", "Ada"),
        ("The name of the country which {} is associated with is", "the University of Foo"),
        ("The name of the sports team which {} is a member of is", "Ada"),
        ("The name of the country which {} is the capital of is", "Foo"),
        ("The name of the position held by {} is", "Ada of Foo"),
        ("The name of the award {} won is", "Ada"),
        ("The name of the currency in {} is", "Isle of Foo"),
        ("{} follows", "Foo II"),
        ("{} is followed by", "Foo II"),
    ],
)
def test_every_phrase_is_taken_apart(read_one: Callable[[Any], Record], prompt: str, subject: str) -> None:
    record = read_one(ripple(f"{prompt.replace('{}', subject)} Bar Baz."))
    (fact,) = record.edits
    assert (fact.prompt, fact.subject, fact.target_new) == (prompt, subject, "Bar Baz")
    assert fact.target_true is None and record.questions[0].rival is None


def test_the_targets_name_decides_between_two_ways(
    read_one: Callable[[Any], Record], refused: Callable[[Any, Any], str]
) -> None:
    sentence = "The name of the author of Life is Short is Bo."
    known = [case(query("Its writer is", "Bo", target="Q9"))]
    assert read_one(ripple(sentence, Subject_Aliasing=known)).edits[0].subject == "Life is Short"
    other = [case(query("Its writer is", "Bo", target="Q7"))]
    good = ripple("The gender of Ada is male.")
    assert "more than one way" in refused(good, ripple(sentence, Subject_Aliasing=other))


def test_what_is_no_edit(refused: Callable[[Any, Any], str]) -> None:
    good = ripple("The gender of Ada is male.")
    assert "in no known way" in refused(good, ripple("Ada hums a tune."))
    assert "true one" in refused(good, ripple("The gender of Ada is male.", "The gender of Ada is male."))
    assert "no new target" in refused(good, ripple("The gender of Ada is ."))
    assert "'edit' is no object" in refused(good, {"edit": "The gender of Ada is male."})


def test_an_answer_that_nobody_knew_is_no_rival(read_one: Callable[[Any], Record]) -> None:
    assert read_one(ripple("The gender of Ada is male.", "The gender of Ada is .")).questions[0].rival is None
