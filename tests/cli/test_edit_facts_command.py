"""`rome-engine edit-facts` and `card`: bad records said before any work, the promised fields, and every output."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from rome_engine.edit import Edit, Health
from rome_engine.model.language_model import LanguageModel
from tests.cli.conftest import Cli, refused
from tests.edit.examples import random_edit, same_logits

FACTS = [
    {
        "prompt": "You can find {} in the city of",
        "subject": "The Eiffel Tower",
        "target_true": "Paris",
        "target_new": "Rome",
        "paraphrases": ["To visit {}, you have to travel to"],
        "neighbourhood": ["The Louvre is in"],
    },
    {"prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux", "target_new": "Greece", "id": "two"},
    {"prompt": "{} plays the sport of", "subject": "LeBron James", "target_new": "Seattle"},
]
BAD = [{**FACTS[2], "target_new": "Paris"}, {"prompt": "{} is", "subject": "x", "color": "red"}]
PROMISED = ("file", "records", "edited", "skipped", "summary", "facts", "layers", "rank", "health", "provenance")


def write(records: list[dict[str, Any]], name: str = "facts.jsonl") -> str:
    Path(name).write_text("\n".join(map(json.dumps, records)))
    return name


def usage(card: str, model: Path, folder: Path) -> Any:
    """The model that the card's own lines load in its folder."""
    code = card.partition("```python\n")[2].partition("```")[0].partition("with ")[0]
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        exec(code.replace(repr(model.name), repr(str(model))), names)  # a card tells a folder's name alone
    return names["model"]


@pytest.fixture
def options(neox: Path, corpus: Path, cache: Path, here: Path) -> list[object]:
    return ["--model", neox, "--layer", 2, "--corpus", corpus, "--tokens", 1000, "--guard", "warn"]


def test_facts_are_rewritten_in_every_form(cli: Cli, neox: Path, options: list[object], here: Path) -> None:
    written = ("--save", "e.safetensors", "--merged", "merged", "--adapter", "adapter", "--card", "card.md")
    record = cli("edit-facts", write(FACTS), *options, *written, "--json").record
    assert set(PROMISED) <= set(record)
    assert (record["records"], record["edited"], record["skipped"]) == (3, 3, [])
    assert [fact["target"] for fact in record["facts"]] == ["Rome", "Greece", "Seattle"]
    assert all(fact["after"]["new"] > fact["before"]["new"] for fact in record["facts"])
    assert record["facts"][0]["old_target"] == "Paris" and record["facts"][1]["id"] == "two"
    before, after = (record["summary"]["prompt"][when] for when in ("before", "after"))
    assert before["texts"] == after["texts"] == 3 and before["argmax"] == 0.0
    assert record["summary"]["neighbour"]["after"]["texts"] == 1
    assert record["rank"] == 3 and record["layers"][-1] == 2 and record["health"]["perplexity"] > 0
    assert {name: record[name] for name in ("edit_file", "merged", "adapter", "card")} == {
        "edit_file": "e.safetensors",
        "merged": "merged",
        "adapter": "adapter",
        "card": "card.md",
    }
    model = LanguageModel.load(str(neox))
    ids = torch.arange(14).reshape(2, 7) + 30
    with torch.no_grad(), Edit.load("e.safetensors").applied(model):
        expected = model.module(input_ids=ids).logits
    merged: Any = AutoModelForCausalLM.from_pretrained(here / "merged")
    adapted: Any = peft.AutoPeftModelForCausalLM.from_pretrained(str(here / "adapter"))
    with torch.no_grad():
        assert torch.equal(merged(input_ids=ids).logits, expected)
        assert same_logits(adapted(input_ids=ids).logits, expected)
    card = Path("card.md").read_text()
    assert card.startswith('---\nbase_model: "neox"\n') and "3 facts" in card
    assert 'rome-engine ask "PROMPT" --model neox --edit e.safetensors\n' in card
    assert json.loads(Path("adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(neox)
    for form in ("merged", "adapter"):
        other = Path(form, "README.md").read_text()
        assert other.partition("## To ")[0] == card.partition("## To ")[0] and str(neox.parent) not in other
        assert "e.safetensors" not in other and "edit.safetensors" not in other
        loaded = usage(other, neox, Path(form))
        with torch.no_grad():
            assert same_logits(loaded(input_ids=ids).logits, expected)
    answers = [
        cli("ask", FACTS[0]["prompt"].replace("{}", FACTS[0]["subject"]), "-m", neox, *files, "--json").record["top"]
        for files in ((), ("--edit", "e.safetensors"))
    ]
    assert answers[0] != answers[1]
    done = cli("card", "e.safetensors", "--model", neox)
    assert done.code == 0 and done.out == card
    record = cli("card", "e.safetensors", "--model", neox, "--json").record
    assert record == {"edit": "e.safetensors", "card": None, "markdown": done.out}
    assert cli("card", "e.safetensors", "--model", neox, "--out", "again.md").code == 0
    assert Path("again.md").read_text() == card


def test_bad_records_are_all_said_before_the_model_is_loaded(cli: Cli, here: Path, no_model: None) -> None:
    done = cli("edit-facts", write([*FACTS, *BAD, FACTS[0]]), "--save", "e.safetensors")
    refused(
        done,
        "4 of the 6 records of facts.jsonl cannot be used",
        "line 3: the target of 'LeBron James' is 'Seattle' here and another one in line 4",
        "line 5: unknown fields color",
        "line 6: it says the same as line 1",
        "--skip-bad",
    )
    assert [path.name for path in here.iterdir()] == ["facts.jsonl"]


def test_the_rest_is_edited_where_asked(cli: Cli, options: list[object], here: Path) -> None:
    file = write([*FACTS, *BAD, FACTS[0]])
    record = cli("edit-facts", file, *options, "--skip-bad", "--json").record
    assert (record["records"], record["edited"]) == (6, 2)
    assert [(one["record"], one["line"]) for one in record["skipped"]] == [(3, 3), (4, 4), (5, 5), (6, 6)]
    done = cli("edit-facts", file, *options, "--skip-bad", "--limit", 1)
    assert done.code == 0 and "1 fact of facts.jsonl rewritten; 4 of 6 records left out" in done.out
    assert "nothing was kept" in done.err and "neighbour" in done.out and "known answers" in done.out


def test_what_the_model_answers_already_needs_no_edit(cli: Cli, neox: Path, options: list[object], here: Path) -> None:
    model = LanguageModel.load(str(neox))
    for number in range(200):
        prompt = f"{number}: You can find Rome in"
        token = int(model.next_token_logits(model.tokenize(prompt)).argmax())
        word = model.text([token]).strip()
        if word and model.target_ids(prompt, word) == (token,):
            break
    else:
        raise AssertionError("this tiny model never answers with a word")
    file = write([FACTS[0], {"prompt": prompt, "subject": "Rome", "target_new": word}])
    refused(cli("edit-facts", file, *options), "line 2: its target is the model's answer already")
    record = cli("edit-facts", file, *options, "--skip-bad", "--json").record
    assert record["edited"] == 1 and record["skipped"][0]["reason"] == "its target is the model's answer already"
    first = {"prompt": prompt, "subject": "Rome", "target_new": word}
    record = cli("edit-facts", write([first, *FACTS]), *options, "--skip-bad", "--limit", 2, "--json").record
    assert record["edited"] == 2  # the limit is of those that can be used


def test_a_damaged_model_is_not_written(
    cli: Cli, options: list[object], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rome_engine.edit.Checkup.of", lambda *_: Health(10.0, 13.0, 8, 2))
    written = ("--save", "e.safetensors", "--merged", "merged", "--adapter", "adapter", "--card", "card.md")
    facts = write(FACTS[:1])
    # The same size of change is no reason to refuse it before the model is asked.
    monkeypatch.setattr("rome_engine.edit.guard.Guard.norms", lambda *_: None)
    for guard in ("refuse", "rollback"):
        done = cli("edit-facts", facts, *options, *written, "--guard", guard)
        refused(done, "perplexity of held-out text goes from 10 to 13", "2 of 8 known answers", "the policy warn")
    assert [path.name for path in here.iterdir()] == ["facts.jsonl"]
    record = cli("edit-facts", facts, *options, "--save", "e.safetensors", "--json").record
    assert record["health"]["lost"] == 2 and Path("e.safetensors").is_file()


def test_no_health_is_measured_where_it_is_off(
    cli: Cli, options: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object) -> None:
        raise AssertionError("the model's health was measured")

    monkeypatch.setattr("rome_engine.edit.Checkup", measured)
    record = cli("edit-facts", write(FACTS[:1]), *options, "--guard", "off", "--json").record
    assert record["health"] is None and record["edited"] == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.json",), ("cannot read the facts none.json", "check the path")),
        (("facts.jsonl", "--method", "mimit"), ("no method 'mimit'", "memit")),
        (("facts.jsonl", "--limit", "0"), ("--limit",)),
        (("facts.jsonl", "--guard", "maybe"), ("--guard", "'rollback'")),
        (("facts.jsonl", "--card", "none/card.md"), ("the folder none does not exist",)),
        (("facts.jsonl", "--adapter", "."), ("exists already",)),
        (("facts.jsonl", "--corpus", "none.txt"), ("no corpus none.txt",)),
    ],
)
def test_mistakes_are_said_before_the_model_is_loaded(
    cli: Cli, here: Path, no_model: None, arguments: tuple[str, ...], said: tuple[str, ...]
) -> None:
    write(FACTS)
    refused(cli("edit-facts", *arguments), *said)


def test_a_method_of_one_fact_says_so(cli: Cli, options: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rome_engine.stats.moments", lambda *_, **__: pytest.fail("nothing is collected before"))
    refused(cli("edit-facts", write(FACTS), *options, "--method", "r-rome"), "one fact at a time")


def test_a_card_of_another_models_edit_is_refused(cli: Cli, models: Path, here: Path) -> None:
    random_edit(LanguageModel.load(str(models / "other"))).save("e.safetensors")
    refused(cli("card", "e.safetensors", "--model", models / "neox", "--out", "card.md"), "made for other weights")
    refused(cli("card", "none.safetensors"), "there is no edit file")
    assert [path.name for path in here.iterdir()] == ["e.safetensors"]
