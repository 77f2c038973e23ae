"""`ledger`: batches on top of each other, on the disk, in any order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers as hf

from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.cli.conftest import Cli

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


def test_batches_are_kept_taken_out_and_exported(
    cli: Cli, neox: Path, corpus: Path, facts: Path, tmp_path: Path
) -> None:
    folder, model = tmp_path / "kept", ("-m", neox)
    texts = ("--corpus", corpus, "--tokens", 4000)
    added = cli("ledger", "add", folder, facts, "--batch", 1, *texts, *model, "--json").record
    assert [edit["name"] for edit in added["edits"]] == ["moves-0001", "moves-0002", "moves-0003"]
    assert cli("ledger", "list", folder, "--json").record == added
    again = cli("ledger", "add", folder, facts, "--batch", 1, *model, "--json").record
    assert again == added
    moved = cli("ledger", "move", folder, "moves-0003", 0, *model, "--json").record
    assert [edit["name"] for edit in moved["edits"]] == ["moves-0003", "moves-0001", "moves-0002"]
    left = cli("ledger", "remove", folder, "moves-0001", "--keep-values", *model)
    assert left.code == 0 and "moves-0002" in left.out and "moves-0001" not in left.out
    assert cli("ledger", "export", folder, tmp_path / "whole", *model).code == 0
    edited = LanguageModel(hf.AutoModelForCausalLM.from_pretrained(tmp_path / "whole"), tiny.tokenizer())
    page = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    assert edited.weight_hash() == page["weights"] != page["base"]


def test_mistakes(cli: Cli, neox: Path, corpus: Path, facts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    none = cli("ledger", "list", folder)
    assert none.code == 2 and "there is no ledger" in none.err
    made = cli("ledger", "add", folder, facts, "--limit", 1, "--corpus", corpus, "--tokens", 4000, "-m", neox)
    assert made.code == 0, made.err
    other = cli("ledger", "add", folder, facts, "--limit", 2, "-m", neox)
    assert other.code == 2 and "other facts already" in other.err
    wrong = cli("ledger", "remove", folder, "x", "-m", neox)
    assert wrong.code == 2 and "no edit 'x'" in wrong.err
    trained = cli("ledger", "add", tmp_path / "new", facts, "--method", "ft-l", "-m", neox)
    assert trained.code == 2 and "solves for no weights" in trained.err
    assert not (tmp_path / "new" / "ledger.json").exists()
