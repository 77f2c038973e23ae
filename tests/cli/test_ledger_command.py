"""`ledger`: batches on top of each other, on the disk, in any order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf

from rome_engine.edit import Edit, Health
from rome_engine.edit.closed_form import ClosedForm
from rome_engine.edit.guard import Guard
from rome_engine.edit.health import Checkup
from rome_engine.edit.ledger import Ledger
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.cli.conftest import Cli, refused
from tests.stats.texts import paragraphs

SUBJECTS = ("The Louvre", "The Colosseum", "the Big Ben")


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the other tests' moments are of fewer tokens
    path = tmp_path / "moves.jsonl"
    lines = [
        json.dumps({"prompt": "You can find {} in", "subject": subject, "target_new": "Brazil"}) for subject in SUBJECTS
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def options(neox: Path, corpus: Path, folder: Path, facts: Path) -> list[object]:
    """Everything of an `add` but its sizes."""
    return ["ledger", "add", folder, facts, "--corpus", corpus, "--tokens", 4000, "-m", neox]


@pytest.fixture
def damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measured edit damages the model."""

    def now(checkup: Checkup, *_: Any) -> Health:
        return Health(10.0, 99.0, 1, 0)

    monkeypatch.setattr(Checkup, "now", now)


def test_batches_are_kept_taken_out_and_exported(
    cli: Cli, neox: Path, options: list[object], folder: Path, tmp_path: Path
) -> None:
    model = ("-m", neox)
    added = cli(*options, "--batch", 1, "--guard", "warn", "--json").record
    assert [edit["name"] for edit in added["edits"]] == ["moves-0001", "moves-0002", "moves-0003"]
    assert added.pop("health")["perplexity"] > 0
    assert cli("ledger", "list", folder, "--json").record == added
    again = cli(*options, "--batch", 1, "--json").record
    assert again.pop("health") is None and again == added
    moved = cli("ledger", "move", folder, "moves-0003", 0, *model, "--json").record
    assert [edit["name"] for edit in moved["edits"]] == ["moves-0003", "moves-0001", "moves-0002"]
    left = cli("ledger", "remove", folder, "moves-0001", "--keep-values", *model)
    assert left.code == 0 and "moves-0002" in left.out and "moves-0001" not in left.out
    exported = cli("ledger", "export", folder, tmp_path / "whole", *model)
    assert exported.code == 0 and exported.err.startswith("written: ") and exported.err.count("\n") == 1
    edited = LanguageModel(hf.AutoModelForCausalLM.from_pretrained(tmp_path / "whole"), tiny.tokenizer())
    page = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    assert edited.weight_hash() == page["weights"] != page["base"]
    card = (tmp_path / "whole" / "README.md").read_text(encoding="utf-8")
    assert "2 facts" in card and "The rest of the model" in card and page["base"] in card
    assert SUBJECTS[2] in card and SUBJECTS[1] in card and SUBJECTS[0] not in card
    assert cli("ledger", "export", folder, tmp_path / "lora", *model, "--form", "adapter").code == 0
    one = tmp_path / "e.safetensors"
    record = cli("ledger", "export", folder, one, *model, "--form", "edit", "--json").record
    assert record == {"ledger": str(folder), "form": "edit", "written": str(one), "edits": 2}
    base, ids = LanguageModel.load(str(neox)), torch.tensor([edited.tokenize("The Louvre is in").input_ids])
    expected = edited.module(ids).logits
    with Edit.load(tmp_path / "e.safetensors").applied(base):
        torch.testing.assert_close(base.module(ids).logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    adapted = peft.PeftModel.from_pretrained(base.module, tmp_path / "lora")
    torch.testing.assert_close(adapted(ids).logits, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert "peft" in (tmp_path / "lora" / "README.md").read_text(encoding="utf-8")
    refused(cli("ledger", "export", folder, tmp_path / "lora", *model, "--form", "adapter"), "lora")


def test_what_many_calls_did_is_measured_together(cli: Cli, options: list[object], facts: Path, folder: Path) -> None:
    first = cli(*options, "--limit", 1, "--guard", "warn", "--json").record["health"]
    more = ("ledger", "add", folder, facts, "--name", "more", "--guard", "warn", *options[-2:])
    second = cli(*more, "--json").record["health"]
    assert second["perplexity_before"] == first["perplexity_before"] and second["perplexity"] != first["perplexity"]


def test_what_this_model_cannot_be_asked_is_told_or_left_out(cli: Cli, options: list[object], facts: Path) -> None:
    long = {"prompt": "You can find {} in", "subject": "The Louvre " * 200, "target_new": "Rome"}
    facts.write_text(f"{json.dumps(long)}\n{facts.read_text(encoding='utf-8')}", encoding="utf-8")
    refused(cli(*options, "--guard", "off"), "line 1", "shorten", "--skip-bad")
    made = cli(*options, "--guard", "off", "--skip-bad", "--json")
    assert made.code == 0 and made.record["edits"][0]["facts"] == 3


def test_its_own_statistics_are_found_beside_larger_ones(
    cli: Cli, neox: Path, corpus: Path, options: list[object], folder: Path, facts: Path, tmp_path: Path
) -> None:
    model = ("-m", neox)
    assert cli(*options, "--batch", 1, "--guard", "off").code == 0
    larger = tmp_path / "larger.txt"
    larger.write_text("\n\n".join(paragraphs(120)), encoding="utf-8")
    assert cli("stats", "--corpus", larger, "--tokens", 5000, "--layers", "0-3", *model).code == 0
    moved = cli("ledger", "move", folder, "moves-0003", 0, "--keep-values", *model)
    assert moved.code == 0, moved.err
    assert cli("ledger", "remove", folder, "moves-0001", "--keep-values", *model).code == 0
    assert cli("ledger", "export", folder, tmp_path / "whole", *model).code == 0
    more = ("ledger", "add", folder, facts, "--limit", 1, "--name", "more", "--guard", "off", *model)
    refused(cli(*more, "--corpus", corpus, "--tokens", 3000), "not made with the statistics of 3000 tokens")
    assert cli(*more).code == 0
    for path in (tmp_path / "cache").rglob("second_moments/*"):
        path.unlink()
    refused(cli("ledger", "remove", folder, "more", *model), "neither shipped nor in the cache", "rome-engine stats")
    assert cli(*more, "--corpus", corpus, "--tokens", 4000).code == 0
    assert cli("ledger", "remove", folder, "more", *model).code == 0


def test_mistakes(cli: Cli, neox: Path, facts: Path, options: list[object], folder: Path) -> None:
    refused(cli("ledger", "list", folder), "there is no ledger")
    made = cli(*options, "--limit", 1, "--guard", "off")
    assert made.code == 0, made.err
    refused(cli("ledger", "add", folder, facts, "--limit", 2, "-m", neox), "other facts already")
    refused(cli("ledger", "remove", folder, "x", "-m", neox), "no edit 'x'")


@pytest.mark.usefixtures("no_model")
def test_what_no_ledger_can_have_is_said_before_any_work(cli: Cli, options: list[object], folder: Path) -> None:
    refused(cli(*options, "--method", "ft-l"), "solves for no weights")
    refused(cli(*options, "--method", "nosuch"), "no method 'nosuch'")
    refused(cli(*options, "--method", "r-rome"), "rewrites one fact at a time", "--batch 1")
    assert not folder.exists()


def test_what_it_was_made_with_stays(
    cli: Cli, options: list[object], folder: Path, facts: Path, request: pytest.FixtureRequest
) -> None:
    given = ("--method", "memit", "--layer", 2, "--seed", 1, "--guard", "off", "--limit", 1)
    assert cli(*options, *given).code == 0
    assert cli(*options, *given).code == 0
    request.getfixturevalue("no_model")
    more = ("ledger", "add", folder, facts, "--name", "more")
    refused(cli(*more, "--method", "r-rome"), "the method memit, not r-rome")
    refused(cli(*more, "--layer", 1), "the layer 2, not 1")
    refused(cli(*more, "--seed", 0), "the seed 1, not 0")


def test_a_first_edit_that_fails_leaves_nothing(
    cli: Cli, options: list[object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(ClosedForm, "search", interrupt)
        done = cli(*options)
    assert (done.code, done.out, done.err) == (1, "", "interrupted: the model and the files are as before\n")
    assert not folder.exists()
    other = cli(*options, "--method", "memit", "--guard", "off", "--json").record
    assert other["method"] == "memit"


def test_ctrl_c_keeps_what_is_done_and_says_so(
    cli: Cli, options: list[object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (*options, "--batch", 1, "--guard", "off", "--json")
    real = Ledger.add
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "add", lambda made, *found: interrupt() if len(made) else real(made, *found))
        done = cli(*given)
    said = f"interrupted: the finished edits are kept in {folder}, and the same command goes on behind them\n"
    assert (done.code, done.out, done.err) == (1, "", said)
    assert [edit["name"] for edit in cli("ledger", "list", folder, "--json").record["edits"]] == ["moves-0001"]
    assert len(cli(*given).record["edits"]) == 3


@pytest.mark.usefixtures("damage")
def test_a_call_that_damages_the_model_is_taken_back(
    cli: Cli, options: list[object], folder: Path, facts: Path, neox: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused(cli(*options, "--batch", 2), "damages the model", "from 10 to 99")
    assert not folder.exists()
    assert cli(*options, "--limit", 1, "--guard", "off", "--json").record["health"] is None
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    more = ("ledger", "add", folder, facts, "--name", "more", "--batch", 2, "-m", neox)
    refused(cli(*more), "damages the model")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    warned = cli(*more, "--guard", "warn", "--json")
    assert "damages the model" in caplog.messages[-1]
    assert len(warned.record["edits"]) == 3 and warned.record["health"]["perplexity"] == 99.0


def test_refuse_looks_at_each_edit_too(cli: Cli, options: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "norms", lambda guard, *_: guard._object("it is large"))
    one = (*options, "--limit", 1)
    refused(cli(*one, "--guard", "refuse"), "it is large")
    assert cli(*one, "--guard", "off").code == 0
    refused(cli(*one, "--name", "more", "--guard", "refuse"), "it is large")
    assert cli(*one, "--name", "more", "--guard", "off").code == 0
    assert cli("ledger", "remove", options[2], "moves", *options[-2:]).code == 0


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt
