"""What cannot be edited together is found before any work: contradictions, repetitions, and facts without a target."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rome_engine.errors import PromptError
from rome_engine.fact_files import FactFile, check_usable, editable, read_facts
from rome_engine.facts import Fact

LOUVRE = Fact("{} is in", "The Louvre", target_new="Rome", relation="city")
TATE = Fact("{} is in", "The Tate", target_new="Oslo", relation="city")


def of(*facts: Fact) -> FactFile:
    return FactFile("facts.json", "", tuple(enumerate(facts, 1)))


def reasons(file: FactFile) -> dict[int, str]:
    return {one.number: one.reason for one in file.malformed}


def test_facts_that_agree_all_stay() -> None:
    other = Fact("You find {} in", "The Louvre", target_new="Rome", relation="city")
    unrelated = Fact("{} was built in", "The Louvre", target_new="1900", relation="year")
    plain = Fact("{} was opened in", "The Louvre", target_new="1793")
    file = of(LOUVRE, TATE, other, unrelated, plain)
    assert editable(file) == file
    check_usable(file, "go on")


def test_two_targets_for_one_prompt_are_a_conflict_of_both() -> None:
    plain = Fact("{} is in", "The Louvre", target_new="Bonn")
    found = editable(of(TATE, LOUVRE, plain))
    assert [number for number, _ in found.facts] == [1]
    assert reasons(found) == {
        2: "the target of 'The Louvre' is 'Rome' here and another one in record 3",
        3: "the target of 'The Louvre' is 'Bonn' here and another one in record 2",
    }


def test_two_targets_for_one_relation_are_a_conflict_whatever_the_prompts() -> None:
    worded = Fact("You find {} in", "The Louvre", target_new="Bonn", relation="city")
    assert set(reasons(editable(of(LOUVRE, TATE, worded)))) == {1, 3}
    assert not reasons(editable(of(LOUVRE, Fact("You find {} in", "The Louvre", target_new="Bonn"))))


def test_the_first_of_equal_facts_stays() -> None:
    again = Fact("{} is in", "The Louvre", target_new=" Rome ", id="again")
    found = editable(of(LOUVRE, TATE, again, again))
    assert [number for number, _ in found.facts] == [1, 2]
    assert reasons(found) == {3: "it says the same as record 1", 4: "it says the same as record 1"}


@pytest.mark.parametrize("spaced", [{"prompt": "{} is in "}, {"prompt": " {} is in\n"}, {"subject": " The Louvre "}])
def test_white_space_around_a_text_makes_no_other_question(spaced: dict[str, str]) -> None:
    again = replace(LOUVRE, relation=None, **spaced)
    assert reasons(editable(of(LOUVRE, again))) == {2: "it says the same as record 1"}
    assert set(reasons(editable(of(LOUVRE, replace(again, target_new="Bonn"))))) == {1, 2}
    worded = replace(again, prompt="You find {} in", relation=" city", target_new="Bonn")
    assert set(reasons(editable(of(LOUVRE, worded)))) == {1, 2}


def test_no_target_is_told_and_is_no_conflict() -> None:
    found = editable(of(LOUVRE, Fact("{} is in", "The Louvre", relation="city"), Fact("{} is", "X", target_new=" ")))
    assert reasons(found) == {2: "it has no target_new", 3: "it has no target_new"}
    assert [number for number, _ in found.facts] == [1]


def test_all_is_said_in_one_message_with_lines(tmp_path: Path) -> None:
    records = [LOUVRE.to_dict(), {"prompt": "{}"}, *({"prompt": "{} is", "subject": f"{n}"} for n in range(11))]
    path = tmp_path / "facts.jsonl"
    path.write_text("\n\n".join(map(json.dumps, [*records, TATE.to_dict(), LOUVRE.to_dict()])))
    found = editable(read_facts(path))
    with pytest.raises(PromptError) as raised:
        check_usable(found, "leave them out")
    said = str(raised.value)
    assert said.startswith(
        "13 of the 15 records of facts.jsonl cannot be used: line 3: the record has no text 'subject'"
    )
    assert "; line 21: it has no target_new; and 3 more (leave them out)" in said and "line 23" not in said
    assert found.malformed[-1].place == "line 29" and found.malformed[-1].reason == "it says the same as line 1"
