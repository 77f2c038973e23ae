"""`rome-engine compare`: its tables, its files and its mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rome_engine.bench.run import Run
from rome_engine.bench.run_file import RunFile
from tests.bench.runs import build_run, counterfact, sequential
from tests.cli.conftest import Cli, refused


def kept(run: Run) -> Path:
    """The run in its file."""
    with RunFile(run.path) as file:
        file.begin(run.configuration, run.environment, run.total)
        file.keep(run.rows, run.general)
    return run.path


@pytest.fixture
def runs(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setenv("COLUMNS", "200")  # no table is broken
    return [kept(counterfact("r-rome", 1, 50, 0.98)), kept(counterfact("ft-l", 2, 50, 0.5))]


def test_the_table_and_the_files_say_the_same(cli: Cli, runs: list[Path]) -> None:
    files = [part for name in ("c.html", "c.md", "c.csv", "c.json") for part in ("--out", name)]
    done = cli("compare", *runs, *files)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "Leaderboard" in said and "published: ROME" in said and "McNemar" in said
    assert done.err.count("written: ") == 4
    record = cli("compare", *runs, "--json").record
    assert json.loads(Path("c.json").read_text()) == record
    assert [line["label"] for line in record["entries"]] == ["r-rome", "ft-l"]


def test_one_run_is_its_own_leaderboard(cli: Cli, runs: list[Path]) -> None:
    record = cli("compare", runs[0], "--json").record
    assert len(record["entries"]) == 1 and record["pairs"] == []
    assert "Differences" not in cli("compare", runs[0]).out


def test_figures_checkpoints_and_seeds_are_chosen(cli: Cli, here: Path) -> None:
    path = kept(sequential("memit", 3, 4))
    record = cli("compare", path, "--figure", "ES", "--checkpoint", 1, "--seed", 5, "--json").record
    assert [one["name"] for one in record["figures"]] == ["es@1"] and record["seed"] == 5
    assert record["entries"][0]["checkpoint"] == 1 and len(record["retention"]) == 1


def test_a_run_that_is_going_on_is_refused_and_its_copy_is_read(cli: Cli, here: Path) -> None:
    run = counterfact("going", 1, 20, total=30)
    with RunFile(run.path) as file:
        file.begin(run.configuration, run.environment, run.total)
        file.keep(run.rows, run.general)
        refused(cli("compare", run.path), "going.sqlite is being written", "going.sqlite-wal", "wait")
        for name in ("going.sqlite", "going.sqlite-wal"):
            Path(name.replace("going", "copy")).write_bytes(Path(name).read_bytes())
    record = cli("compare", "copy.sqlite", "--json").record
    assert (record["entries"][0]["done"], record["entries"][0]["waiting"]) == (20, 10)


def test_pictures_of_nothing_are_refused(cli: Cli, here: Path) -> None:
    path = kept(build_run("allbad", [None] * 3))
    for name in ("x.svg", "x.csv"):
        refused(cli("compare", path, "--out", name), name, "no record has a figure")
        assert not Path(name).exists()


def test_mistakes_are_one_line(cli: Cli, runs: list[Path]) -> None:
    refused(cli("compare", "nowhere.sqlite"), "nowhere.sqlite")
    Path("text.sqlite").write_text("no run at all, but long enough to be read as one" * 20)
    refused(cli("compare", "text.sqlite"), "text.sqlite")
    refused(cli("compare", runs[0], runs[0]), "given 2 times")
    refused(cli("compare", *runs, "--figure", "nothing"), "no run has the figure 'nothing'")
    refused(cli("compare", *runs, "--checkpoint", 7), "no checkpoint 7")
    refused(cli("compare", *runs, "--out", "c.gif"), ".html")
    refused(cli("compare", runs[0], kept(counterfact("other", 3, data="e" * 64))), "different data sets")
    assert cli("compare").code == 2
