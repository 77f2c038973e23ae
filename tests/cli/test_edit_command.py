"""`rome-engine edit` and `ask`: the promised fields, what is written, and that one reads what the other wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rome_engine.edit import Edit, Health
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.cli.conftest import PROMPT, Cli, refused
from tests.edit.examples import random_edit, same_logits

PROMISED = ("before", "after", "layers", "delta_norm", "weight_norm", "denominator", "seconds", "edit_file")


def test_an_edit_is_described_saved_and_asked(cli: Cli, neox: Path, edit_options: list[object], here: Path) -> None:
    record = cli(*edit_options, "--target", "Rome", "--save", "rome.safetensors", "--json").record
    assert set(PROMISED) <= set(record)
    assert record["layers"] == [1] and record["edit_file"] == "rome.safetensors" and record["merged"] is None
    assert record["method"] == "r-rome" and record["target"] == "Rome"
    assert record["after"]["new"] > 2 * record["before"]["new"]
    assert record["before"]["old"] > record["before"]["new"]
    assert all(len(record[name]) == 1 and record[name][0] > 0 for name in ("delta_norm", "weight_norm", "denominator"))
    assert {"value", "solve"} <= set(record["seconds"]) and all(took >= 0 for took in record["seconds"].values())
    assert [path.name for path in here.iterdir()] == ["rome.safetensors"]

    def ask(*options: object) -> dict[str, Any]:
        return cli("ask", PROMPT, "--model", neox, "--top", tiny.VOCAB, *options, "--json").record

    def of(answer: dict[str, Any], token: int) -> float:
        return next(row["probability"] for row in answer["top"] if row["id"] == token)

    model = LanguageModel.load(str(neox))
    (token, *_) = model.target_ids(PROMPT, "Rome")
    plain, edited = ask(), ask("--edit", "rome.safetensors")
    assert edited["edits"] == ["rome.safetensors"] and plain["edits"] == []
    assert of(edited, token) > 2 * of(plain, token)
    assert Edit.load(here / "rome.safetensors").provenance.facts[0]["target_new"] == "Rome"


def test_edits_stack(cli: Cli, neox: Path, here: Path) -> None:
    model = LanguageModel.load(str(neox))
    edits = [random_edit(model, (1,), seed=1), random_edit(model, (1, 2), seed=2)]
    for number, edit in enumerate(edits):
        edit.save(here / f"{number}.safetensors")
    prompt = model.tokenize(PROMPT)
    with edits[0].applied(model), edits[1].applied(model):
        expected = model.next_token_logits(prompt).softmax(-1)
    files = ("-e", "0.safetensors", "-e", "1.safetensors")
    record = cli("ask", PROMPT, "-m", neox, "--top", 3, *files, "--continue", 4, "--json").record
    best = expected.topk(3)
    assert [row["id"] for row in record["top"]] == best.indices.tolist()
    assert [row["probability"] for row in record["top"]] == pytest.approx(best.values.tolist(), rel=1e-4)
    assert isinstance(record["continuation"], str)
    assert [row["id"] for row in cli("ask", PROMPT, "-m", neox, "--top", 3, "--json").record["top"]] != [
        row["id"] for row in record["top"]
    ]


def test_plain_transformers_loads_the_merged_folder(
    cli: Cli, neox: Path, edit_options: list[object], here: Path
) -> None:
    done = cli(*edit_options, "--target", "Rome", "--merged", "new/merged", "--save", "rome.safetensors")
    assert done.code == 0 and "written: new/merged" in done.err and "p(Rome)" in done.out and PROMPT in done.out
    loaded: Any = AutoModelForCausalLM.from_pretrained(here / "new" / "merged")
    ids = AutoTokenizer.from_pretrained(here / "new" / "merged")(PROMPT, return_tensors="pt")["input_ids"]
    model = LanguageModel.load(str(neox))
    with torch.no_grad(), Edit.load("rome.safetensors").applied(model):
        assert torch.equal(loaded(input_ids=ids).logits, model.module(input_ids=ids).logits)


def test_an_adapter_and_a_card_are_written_and_health_is_told(
    cli: Cli, neox: Path, edit_options: list[object], here: Path
) -> None:
    written = ("--save", "rome.safetensors", "--adapter", "adapter", "--card", "card.md", "--merged", "merged")
    record = cli(*edit_options, "--target", "Rome", *written, "--json").record
    assert (record["adapter"], record["card"]) == ("adapter", "card.md")
    assert record["health"]["perplexity_ratio"] < 1.2 and record["health"]["lost"] == 0
    card = (here / "card.md").read_text()
    assert "--edit rome.safetensors" in card
    assert "from_pretrained('.')" in (here / "merged" / "README.md").read_text()
    assert "PeftModel.from_pretrained(base, '.')" in (here / "adapter" / "README.md").read_text()
    assert PROMPT in card and "r-rome" in card
    loaded: Any = peft.AutoPeftModelForCausalLM.from_pretrained(str(here / "adapter"))
    model = LanguageModel.load(str(neox))
    ids = model.ids(model.tokenize(PROMPT))
    with torch.no_grad(), Edit.load("rome.safetensors").applied(model):
        assert same_logits(loaded(input_ids=ids).logits, model.module(input_ids=ids).logits)


def test_a_damaged_model_is_not_written(
    cli: Cli, edit_options: list[object], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rome_engine.edit.Checkup.of", lambda *_: Health(10.0, 13.0, 8, 1))
    options = (*edit_options, "--target", "Rome", "--save", "rome.safetensors")
    refused(cli(*options), "perplexity of held-out text goes from 10 to 13", "the policy warn")
    assert not list(here.iterdir())
    assert cli(*options, "--guard", "warn").code == 0
    assert cli(*edit_options, "--target", "Rome", "--guard", "off", "--json").record["health"] is None


def test_method_and_seed_reach_the_edit(cli: Cli, edit_options: list[object], here: Path) -> None:
    def contexts(*options: object) -> str:
        record = cli(*edit_options, "--target", "Rome", *options, "--json").record
        assert record["edit_file"] is None
        return str(record["provenance"]["contexts"])

    assert contexts() == contexts("--method", "rome") != contexts("--seed", 3)
    assert cli(*edit_options, "--target", "Rome", "--method", "rome", "--json").record["method"] == "rome"
    assert not list(here.iterdir())


def test_nothing_kept_is_said(cli: Cli, edit_options: list[object]) -> None:
    done = cli(*edit_options, "--target", "Rome")
    assert done.code == 0 and "nothing was kept: give --save FILE, --merged FOLDER or --adapter FOLDER" in done.err


def test_people_see_the_answers(cli: Cli, neox: Path) -> None:
    done = cli("ask", "You can find [bold]it[/] in", "-m", neox, "--top", 1000, "--continue", 3)
    assert done.code == 0 and done.err == "" and "probability" in done.out
    assert "You can find [bold]it[/] in" in done.out
    assert len(done.out.splitlines()) >= tiny.VOCAB
