"""`rome-engine screen`: its table, its files and its mistakes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.cli.conftest import PROMPT, SUBJECT, Cli, refused

SCREEN = ("screen", PROMPT, "--subject", SUBJECT)
FEW = ("--samples", "2", "--noise", "0.5", "--top", "6", "--random", "5")


def test_the_table_tells_exact_from_approximate(cli: Cli, neox: Path) -> None:
    done = cli(*SCREEN, *FEW, "-m", neox)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    (header,) = [line.split() for line in lines if "approximate" in line and "exact" in line and "layer" in line]
    assert header == ["token", "layer", "state", "approximate", "exact", "verified", "as"]
    assert sum("one of the top" in line for line in lines) == 6
    assert sum("a random one" in line for line in lines) == 5
    said = " ".join(done.out.split())
    tokens = len(LanguageModel.load(str(neox)).tokenize(PROMPT, SUBJECT).input_ids)
    cells = tokens * tiny.LAYERS * (3 + tiny.HEADS)
    assert f"Approximate: by gradients, for all {cells} cells" in said
    assert f"Exact: 11 cells, the top 6 by size of the approximation and 5 of the other {cells - 6} at random" in said
    assert f"{cells - 11} cells are approximate only" in said
    assert "Missed: an estimated" in said and "95 % interval" in said
    assert "counted twice" not in said


def test_the_record_and_the_files_say_the_same(cli: Cli, neox: Path, here: Path) -> None:
    kinds = ("--kind", "mlp", "--kind", "head", "--window", "1", "--window", "3")
    record = cli(*SCREEN, *FEW, *kinds, "-m", neox, "--out", "s.json", "--json").record
    assert json.loads(Path("s.json").read_text())["maps"] == record["maps"]
    assert [(one["kind"], one["window"]) for one in record["maps"]] == [("mlp", 1), ("mlp", 3), ("head", 1)]
    assert cli(*SCREEN, *FEW, *kinds, "-m", neox, "--out", "s.csv").code == 0
    with Path("s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == record["cells"]
    exact = [row for row in rows if row["exact"]]
    assert len(exact) == 11 and all(row["effect_is"] == "exact" and row["effect"] == row["exact"] for row in exact)
    assert sum(row["chosen"] == "random" for row in rows) == 5
    assert json.loads(Path("s.csv.json").read_text())["missed"] == record["missed"]
    assert cli(*SCREEN, *FEW, *kinds, "-m", neox, "--out", "s.parquet").code == 0


def test_the_runs_values_the_share_and_the_engine(cli: Cli, neox: Path, here: Path) -> None:
    few = (*SCREEN, *FEW, "--kind", "hidden", "--kind", "head", "-m", neox)
    files = ("--out", "s.html", "--out", "s.svg", "--out", "s.csv")
    done = cli(*few, "--engine", "reference", "--share", "0.9", *files)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "total effect" in said and "high −" in said and "reference engine" in said and "at least 90% of" in said
    assert "too small to localise" in said  # a tiny random model knows nothing
    assert sorted(path.name for path in here.iterdir()) == ["s.csv", "s.csv.json", "s.html", "s.svg"]
    strict, lax = (cli(*few, "--share", share, "--json").record for share in ("1", "0.0001"))
    assert strict["missed"]["share"] == 1 and strict["total_effect"] == strict["high"] - strict["low"]
    assert strict["missed"]["top_matter"] < lax["missed"]["top_matter"]


def test_windows_say_that_they_count_twice(cli: Cli, neox: Path) -> None:
    done = cli(*SCREEN, *FEW, "--window", "3", "--kind", "attn", "-m", neox)
    assert "counted twice" in " ".join(done.out.split())


def test_what_is_not_sampled_is_not_known(cli: Cli, neox: Path) -> None:
    unknown = cli(*SCREEN, *FEW, "--random", "0", "-m", neox)
    assert "Missed: unknown, at most" in " ".join(unknown.out.split())
    everything = cli(*SCREEN, *FEW, "--top", "100000", "--kind", "hidden", "-m", neox)
    assert "Missed: none of the cells that matter" in " ".join(everything.out.split())


def test_the_other_options_reach_the_screen(cli: Cli, neox: Path) -> None:
    options = ("--metric", "logit_difference", "--answer", "Paris", "--foil", "Rome", "--direction", "corrupt")
    record = cli(*SCREEN, *FEW, *options, "--seed", "4", "--kind", "hidden", "-m", neox, "--json").record
    assert (record["metric"], record["direction"], record["seed"]) == ("logit_difference", "corrupt", 4)
    assert (record["answer"].strip(), record["foil"], record["samples"]) == ("Paris", "Rome", 2)
    assert (record["missed"]["top"], record["missed"]["sampled"]) == (6, 5)


# Mistakes


BEFORE_LOADING = [
    (("screen", "", "-s", SUBJECT), ("the prompt is empty",)),
    (("screen", PROMPT, "-s", " "), ("the subject is empty", "name the words")),
    (("screen", PROMPT, "-s", "The Louvre"), ("'The Louvre' does not occur in", "write it exactly")),
    (("screen", PROMPT), ("Missing option '--subject'", "screen --help")),
    ((*SCREEN, "--kind", "neuron"), ("--kind", "'neuron'", "'hidden', 'mlp', 'attn', 'head', 'pre'")),
    ((*SCREEN, "--kind", "mid"), ("kind mid cannot be screened", "choose hidden")),
    ((*SCREEN, "--kind", "neuron"), ("--kind", "'neuron'")),
    ((*SCREEN, "--memory", "much"), ("the memory 'much'", "512MiB")),
    ((*SCREEN, "--tokens", "some"), ("the tokens 'some'", "subject")),
    ((*SCREEN, "--window", "0"), ("--window", "greater than or equal to 1")),
    ((*SCREEN, "--top=-1"), ("--top", "greater than or equal to 0")),
    ((*SCREEN, "--random=-1"), ("--random", "greater than or equal to 0")),
    ((*SCREEN, "--top", "0", "--random", "0"), ("verifies at least one cell",)),
    ((*SCREEN, "--metric", "kl"), ("--metric", "'kl'", "'log_probability', 'probability', 'logit_difference'")),
    ((*SCREEN, "--metric", "logit_difference"), ("logit_difference", "foil")),
    ((*SCREEN, "--direction", "up"), ("--direction", "'up'")),
    ((*SCREEN, "--answer", " "), ("the answer is empty",)),
    ((*SCREEN, "--foil", ""), ("the answer is empty",)),
    ((*SCREEN, "--answer", "Rome", "--foil", "Rome"), ("the foil 'Rome' is the answer", "name another")),
    ((*SCREEN, "--samples", "0"), ("--samples", "greater than or equal to 1")),
    ((*SCREEN, "--noise", "loud"), ("'loud'", "3s")),
    ((*SCREEN, "--noise", "0"), ("must be positive",)),
    ((*SCREEN, "--seed", "-1"), ("--seed", "between 0 and")),
    ((*SCREEN, "--bos", "maybe"), ("--bos", "'maybe'")),
    ((*SCREEN, "--dtype", "int8"), ("--dtype", "'int8'")),
    ((*SCREEN, "--device", "toaster"), ("the device 'toaster' cannot be used",)),
    ((*SCREEN, "--out", "screen.gif"), ("screen.gif", "'.gif'", ".html, .json, .csv, .parquet, .png, .svg, .pdf")),
    ((*SCREEN, "--share", "0"), ("above 0 and at most 1, not 0",)),
    ((*SCREEN, "--share", "1.5"), ("above 0 and at most 1, not 1.5",)),
    ((*SCREEN, "--engine", "slow"), ("--engine", "'fast', 'reference'")),
    ((*SCREEN, "--out", "screen"), ("no suffix", ".json")),
    ((*SCREEN, "--out", "none/screen.csv"), ("the folder none does not exist", "make it first")),
]


@pytest.mark.parametrize(("command", "said"), BEFORE_LOADING, ids=lambda value: " ".join(value)[:60])
def test_said_before_any_work(
    cli: Cli, here: Path, no_model: None, command: tuple[str, ...], said: tuple[str, ...]
) -> None:
    refused(cli(*command), *said)
    assert not list(here.iterdir())


def test_what_only_the_model_can_tell(cli: Cli, neox: Path, here: Path) -> None:
    long = f"{'word ' * tiny.CONTEXT}{SUBJECT} is in"
    refused(cli("screen", long, "-s", SUBJECT, "-m", neox), "the model's context holds 128", "shorten it")
    same = ("--answer", "Paris", "--foil", "Paris France", "--noise", "0.5")
    refused(cli(*SCREEN, *same, "-m", neox, "--out", "s.json"), "begin with the same token", "choose another foil")
    assert not list(here.iterdir())
