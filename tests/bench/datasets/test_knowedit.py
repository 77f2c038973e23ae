"""KnowEdit: kinds of portability and locality, and answers however deep they are nested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rome_engine.bench.record import Question, Record

COUNTERFACT: dict[str, Any] = {
    "subject": "Lake Foo",
    "prompt": "The country of Lake Foo is",
    "target_new": "Chile",
    "ground_truth": "Bolivia",
    "portability": {
        "Reasoning": [{"prompt": "The capital of Lake Foo's country is", "ground_truth": "Santiago"}],
        "Subject_Aliasing": [{"prompt": "The country of Foo Water is", "ground_truth": "Chile"}],
    },
    "locality": {"Relation_Specificity": [{"prompt": "The depth of Lake Foo is", "ground_truth": "40 m"}]},
}
RECENT: dict[str, Any] = {
    "subject": "Ada Bar",
    "prompt": "The trade of Ada Bar is",
    "target_new": "weaver",
    "portability": {},
    "locality": {
        "Relation_Specificity": [
            {"prompt": "The siblings of Ada Bar are", "ground_truth": [["Bea Bar", "B. Bar"], ["Cy Bar"]]},
            {"prompt": "The pets of Ada Bar are", "ground_truth": []},
        ],
        "Forgetfulness": [
            {"prompt": "The trade of Ada Bar, which is not weaver, is", "ground_truth": [["smith", "smith"]]}
        ],
    },
}


def test_counterfact(read_one: Callable[[Any], Record]) -> None:
    assert read_one(COUNTERFACT).questions == (
        Question("efficacy", "The country of Lake Foo is", ("Chile",), "Bolivia"),
        Question("portability:Reasoning", "The capital of Lake Foo's country is", ("Santiago",)),
        Question("portability:Subject_Aliasing", "The country of Foo Water is", ("Chile",)),
        Question("locality:Relation_Specificity", "The depth of Lake Foo is", ("40 m",)),
    )


def test_recent_facts_have_no_rival(read_one: Callable[[Any], Record]) -> None:
    assert read_one(RECENT).questions == (
        Question("efficacy", "The trade of Ada Bar is", ("weaver",)),
        Question("locality:Relation_Specificity", "The siblings of Ada Bar are", ("Bea Bar", "B. Bar", "Cy Bar")),
        Question("locality:Forgetfulness", "The trade of Ada Bar, which is not weaver, is", ("smith",)),
    )


def test_paraphrases_under_either_name(read_one: Callable[[Any], Record]) -> None:
    for more in ({"rephrase": "Lake Foo lies in"}, {"rephrase_prompt": ["Lake Foo lies in"]}):
        (paraphrase,) = read_one({**COUNTERFACT, **more}).of("paraphrase")
        assert paraphrase == Question("paraphrase", "Lake Foo lies in", ("Chile",), "Bolivia")


def test_what_is_wrong(refused: Callable[[Any, Any], str]) -> None:
    assert "'locality' is no object" in refused(COUNTERFACT, {**COUNTERFACT, "locality": []})
    assert "'Reasoning' is no list of objects" in refused(
        COUNTERFACT, {**COUNTERFACT, "portability": {"Reasoning": "x"}}
    )
    numbered = {"Relation_Specificity": [{"prompt": "The depth of Lake Foo is", "ground_truth": [[40]]}]}
    assert "no text: 40" in refused(COUNTERFACT, {**COUNTERFACT, "locality": numbered})
    assert "'target_new'" in refused(COUNTERFACT, {**COUNTERFACT, "target_new": None})
