"""`rome-engine trace-facts`: a file of facts in, averages out, and every mistake said before the model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import Tracer
from rome_engine.trace.average import Average
from tests import tiny
from tests.cli.conftest import Cli, refused
from tests.trace.known_facts import known_facts

QUICK = ("--tokens", "last-subject,last", "--samples", 2, "--noise", 1.0, "--window", 2)
ALL = (*QUICK, "--include-small")


@pytest.fixture(scope="session")
def records() -> list[dict[str, Any]]:
    """Four facts in ROME's schema that the model "neox" knows, one that it does not, and one without its subject."""
    facts = known_facts(tiny.shared("neox"), 4)
    known = [
        {"known_id": number, "prompt": fact.text, "subject": fact.subject, "attribute": fact.target_true}
        for number, fact in enumerate(facts)
    ]
    return [*known, {**known[0], "known_id": 4, "attribute": "Seattle"}, {**known[1], "subject": "Nobody"}]


@pytest.fixture
def facts(here: Path, records: list[dict[str, Any]]) -> Path:
    (here / "facts.json").write_text(json.dumps(records), encoding="utf-8")
    return Path("facts.json")


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "seconds": 0}


def test_one_command_averages_a_file(cli: Cli, neox: Path, facts: Path, here: Path) -> None:
    done = cli("trace-facts", facts, "-m", neox, *ALL, "--json")
    record = done.record
    assert [one["kind"] for one in record["maps"]] == ["hidden", "mlp", "attn"]
    assert record["counts"] == {
        **{"records": 6, "malformed": 1, "skipped": 0, "unknown": 1, "known": 4},
        **{"failed": 0, "waiting": 0, "traced": 4},
    }
    assert {one["record"]: one["status"] for one in record["left"]} == {5: "unknown", 6: "malformed"}
    assert "run: facts-neox.sqlite" in done.err
    assert sorted(path.name for path in here.iterdir()) == ["facts-neox.sqlite", "facts.json"]
    assert Average.from_dict(record).maps[0].mean.shape == (6, tiny.LAYERS)
    again = cli("trace-facts", facts, "-m", neox, *ALL, "--json")
    assert numbers(again.record) == numbers(record)


def test_the_terminal_says_how_many_of_how_many_and_names_no_layer_to_edit(cli: Cli, neox: Path, facts: Path) -> None:
    done = cli("trace-facts", facts, "-m", neox, *ALL)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "weak evidence of where an edit works best" in text and "layer to edit" not in text.lower()
    for number in ("4", "6"):
        assert number in text


@pytest.mark.parametrize("suffix", [".html", ".png", ".svg", ".pdf", ".json", ".csv", ".parquet"])
def test_every_format_is_written(cli: Cli, neox: Path, facts: Path, here: Path, suffix: str) -> None:
    done = cli("trace-facts", facts, "-m", neox, *ALL, "--run", "r.sqlite", "--out", f"map{suffix}", "--limit", 2)
    assert done.code == 0, done.err
    assert f"written: map{suffix}" in done.err
    content = (here / f"map{suffix}").read_bytes()
    if suffix == ".json":
        assert Average.load(here / "map.json").counts.traced == 2
    elif suffix == ".csv":
        lines = content.decode().splitlines()
        metrics = 4  # all but the logit difference, which needs a foil
        assert lines[0].startswith("role,layer,kind") and len(lines) == 1 + metrics * 3 * 2 * tiny.LAYERS
        assert json.loads((here / "map.csv.json").read_text())["counts"]["traced"] == 2
    else:
        head = {".html": b"<!doctype html", ".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".parquet": b"PAR1"}
        assert content.lower().startswith(head[suffix].lower())


def test_several_files_at_once(cli: Cli, neox: Path, facts: Path, here: Path) -> None:
    outs = ("--out", "a.json", "--out", "b.csv")
    assert cli("trace-facts", facts, "-m", neox, *ALL, "--limit", 1, "--run", "r.sqlite", *outs).code == 0
    assert (here / "a.json").exists() and (here / "b.csv").exists()


def test_every_option_reaches_the_run(cli: Cli, neox: Path, facts: Path) -> None:
    options = (
        *("--kind", "mlp", "--window", 1, "--window", 3, "--samples", 3, "--noise", "2s", "--noise", "uniform:1s"),
        *("--direction", "corrupt", "--sever", "attn", "--bos", "always", "--seed", 5, "--metric", "kl", "--limit", 2),
        *("--threshold", 0.2, "--include-small", "--memory", "64MiB", "--tokens", "last", "--engine", "reference"),
        *("--answer-tokens", "first"),
    )
    record = cli("trace-facts", facts, "-m", neox, "--run", "r.sqlite", *options, "--json").record
    assert {(one["corruption"], one["severed"], one["window"]) for one in record["maps"]} == {
        (corruption, severed, window)
        for corruption in ("gaussian:2s", "uniform:1s")
        for severed in ("", "attn")
        for window in (1, 3)
    }
    assert {(one["kind"], one["direction"], one["metric"]) for one in record["maps"]} == {("mlp", "corrupt", "kl")}
    about = record["provenance"]
    assert (about["bos"], about["seed"], about["memory"], about["engine"]) == ("always", 5, 64 << 20, "reference")
    assert {one["samples"] for one in record["maps"]} == {3} and about["answer_tokens"] == "first"
    assert (record["threshold"], record["small_included"]) == (0.2, True)
    assert [(one["first"], one["second"], one["facts"]) for one in record["agreement"]][:1] == [
        ("gaussian:2s", "uniform:1s", record["counts"]["traced"])
    ]
    assert record["counts"]["traced"] <= 2


def test_without_a_file_the_packages_own_facts_are_taken(cli: Cli, neox: Path, here: Path) -> None:
    done = cli("trace-facts", "-m", neox, *ALL)
    # A random model knows none of them: that is said with its counts, and no number is made of nothing.
    assert done.code == 2 and "no fact enters the averages" in done.err and "looked at" in done.err
    assert "the model answers" in done.err and done.out == ""


def test_too_small_effects_are_said_and_not_averaged(cli: Cli, neox: Path, facts: Path) -> None:
    done = cli("trace-facts", facts, "-m", neox, *QUICK, "--threshold", 1.5)
    assert done.code == 2 and "is under 1.5" in done.err and "too small to localise" in done.err


def test_an_interruption_says_where_to_go_on(
    cli: Cli, neox: Path, facts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, asked = Tracer.maps, iter(range(99))

    def interrupted(self: Tracer, *arguments: Any) -> Any:
        if next(asked) == 2:
            raise KeyboardInterrupt
        return maps(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Tracer, "maps", interrupted)
        done = cli("trace-facts", facts, "-m", neox, *ALL)
    assert done.code == 1 and done.out == ""
    assert done.err.splitlines()[-1].startswith("interrupted: the finished facts are kept in facts-neox.sqlite")
    resumed = cli("trace-facts", facts, "-m", neox, *ALL, "--json").record
    whole = cli("trace-facts", facts, "-m", neox, *ALL, "--json", "--run", "whole.sqlite").record
    assert numbers(resumed) == numbers(whole)


# Mistakes


MISTAKES = [
    (("none.json",), ("cannot read the facts none.json", "check the path")),
    ((".",), ("cannot read the facts",)),
    (("broken.json",), ("broken.json", "it is no JSON", "broken.jsonl")),
    (("empty.json",), ("no usable fact among the 0 records of empty.json",)),
    (("useless.json",), ("no usable fact among the 1 records of useless.json", "has no text 'prompt'")),
    (("facts.json", "--kind", "neuron"), ("--kind", "'neuron'", "'hidden'")),
    (("facts.json", "--metric", "loss"), ("--metric", "'loss'", "'probability'")),
    (("facts.json", "--noise", "loud"), ("'loud'", "3s")),
    (("facts.json", "--sever", "brain"), ("'brain'", "mlp")),
    (("facts.json", "--tokens", "best"), ("'best'", "last-subject")),
    (("facts.json", "--memory", "much"), ("'much'", "2GiB")),
    (("facts.json", "--window", "0"), ("--window", "greater than or equal to 1")),
    (("facts.json", "--samples", "0"), ("--samples", "greater than or equal to 1")),
    (("facts.json", "--limit", "0"), ("--limit", "greater than or equal to 1")),
    (("facts.json", "--threshold", "nan"), ("threshold", "must be a number")),
    (("facts.json", "--seed", "-1"), ("--seed", "between 0 and")),
    (("facts.json", "--preset", "rome", "--seed", "2"), ("leave seed and bos out",)),
    (("facts.json", "--answer-tokens", "last"), ("--answer-tokens", "'last'", "'all', 'first'")),
    (("facts.json", "--preset", "rome", "--answer-tokens", "all"), ("the preset rome", "leave answer_tokens out")),
    (("facts.json", "--out", "map.bmp"), ("map.bmp", "'.bmp'", ".parquet")),
    (("facts.json", "--out", "a.json", "--out", "map"), ("no suffix",)),
    (("facts.json", "--out", "none/map.html"), ("the folder none does not exist",)),
    (("facts.json", "--run", "none/run.sqlite"), ("the folder none does not exist",)),
    (("facts.json", "--run", "facts.json"), ("cannot write facts.json: this command reads it",)),
    (("facts.json", "--out", "facts.json"), ("cannot write facts.json: this command reads it",)),
    (("facts.json", "--run", "a.json", "--out", "a.json"), ("cannot write a.json: another output",)),
    (("facts.json", "--run", "broken.json"), ("broken.json is damaged or no run of trace-facts", "--run")),
    (("facts.json", "two"), ("unexpected extra argument",)),
]


@pytest.mark.parametrize(("options", "said"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_mistakes_are_said_before_the_model_is_loaded(
    cli: Cli, facts: Path, here: Path, no_model: None, options: tuple[str, ...], said: tuple[str, ...]
) -> None:
    (here / "broken.json").write_text("{broken")
    (here / "empty.json").write_text("[]")
    (here / "useless.json").write_text("[{}]")
    before = {path: path.read_bytes() for path in here.iterdir()}
    refused(cli("trace-facts", *options), *said)
    assert {path: path.read_bytes() for path in here.iterdir()} == before


def test_another_configuration_is_refused_before_the_model_is_loaded(
    cli: Cli, neox: Path, models: Path, facts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("--run", "r.sqlite", "--limit", 1)
    assert cli("trace-facts", facts, "-m", neox, *ALL, *run).code == 0
    other = cli("trace-facts", facts, "-m", models / "other", *ALL, *run)
    assert other.code == 2 and "r.sqlite was made with weights" in other.err and "--run" in other.err
    monkeypatch.setattr(LanguageModel, "load", None)
    refused(cli("trace-facts", facts, "-m", neox, *ALL, *run, "--samples", 3), "made with samples 2", "now it is 3")
    facts.write_text(facts.read_text() + " ")
    refused(cli("trace-facts", facts, "-m", neox, *ALL, *run), "made with facts", "--run")
