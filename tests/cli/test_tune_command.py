"""`tune` measures, keeps the best settings, and later commands use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rome_engine.bench.tune import Tuned
from tests.cli.conftest import Cli

SUBJECTS = ("The Louvre", "The Eiffel Tower", "The Colosseum", "the Big Ben")


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the other tests' moments are of fewer tokens
    path = tmp_path / "facts.json"
    record = {
        "prompt": "You can find {} in",
        "target_true": "Paris",
        "target_new": "Rome",
        "paraphrases": ["To visit {}, you have to travel to"],
        "neighbourhood": ["The capital of Japan is"],
    }
    path.write_text(json.dumps([{**record, "subject": subject} for subject in SUBJECTS]), encoding="utf-8")
    return path


def test_it_keeps_what_later_edits_use(cli: Cli, neox: Path, corpus: Path, facts: Path) -> None:
    options = ("--facts", facts, "--tuning", 2, "--held-out", 2, "--corpus", corpus, "--tokens", 4000, "-m", neox)
    tried = ("--layers", "1,2", "--set", "value.clamp=0.7", "--set", "value.steps=2,3")
    done = cli("tune", *tried, *options, "--keep", "--json")
    record = done.record
    assert [trial["role"] for trial in record["trials"]] == ["layers"] * 2 + ["settings"] * 2
    assert record["n_held_out"] == 2 and {"best", "default", "random", "depth"} == {
        trial["role"] for trial in record["held_out"]
    }
    assert Path(record["preset"]).is_file()
    edited = cli(
        "edit", "The Louvre is in", "-s", "The Louvre", "-t", "Seattle", "-m", neox, "--guard", "off", "--json"
    )
    assert edited.record["layers"] == [record["config"]["layer"]]
    assert edited.record["provenance"]["config"]["value"] == record["config"]["value"]


def test_it_tells_people(cli: Cli, neox: Path, corpus: Path, facts: Path) -> None:
    options = ("--facts", facts, "--tuning", 2, "--held-out", 2, "--corpus", corpus, "--tokens", 4000, "-m", neox)
    done = cli("tune", "--layers", "1,2", "--set", "value.steps=2", "--no-keep", *options)
    assert done.code == 0, done.err
    assert "random" in done.out and "NS" in done.out
    assert "written" not in done.err and "layer tried" in done.err


@pytest.mark.parametrize("better", [True, False])
def test_what_is_no_better_is_not_kept_unasked(
    cli: Cli, neox: Path, corpus: Path, facts: Path, better: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tuned, "better", better)
    options = ("--facts", facts, "--tuning", 2, "--held-out", 2, "--corpus", corpus, "--tokens", 4000, "-m", neox)
    done = cli("tune", "--layers", "2", "--set", "value.steps=2", *options)
    assert ("written" in done.err) is better and ("not kept" in done.err) is not better


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (("--set", "clamp"), "not given as NAME=A,B"),
        (("--set", "clamp=x"), "no number"),
        (("--set", "klamp=1"), "no setting klamp"),
        (("--tuning", "3", "--held-out", "2"), "4 subjects"),
        (("--method", "best"), "no method 'best'"),
    ],
)
def test_mistakes(cli: Cli, neox: Path, corpus: Path, facts: Path, mistake: tuple[str, ...], said: str) -> None:
    options = ("--facts", facts, "--tuning", 2, "--held-out", 2, "--corpus", corpus, "--tokens", 4000, "-m", neox)
    done = cli("tune", "--layers", "1", *options, *mistake)
    assert done.code == 2 and said in done.err, done.err
