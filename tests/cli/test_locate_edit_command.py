"""`locate-edit` traces, edits, relates, and writes one report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rome_engine.model.language_model import LanguageModel
from tests.bench.test_locate import known
from tests.cli.conftest import Cli, refused


@pytest.fixture(scope="module")
def facts(neox: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five facts that the tiny model knows, and one it does not."""
    found = known(LanguageModel.load(str(neox)), 5)
    path = tmp_path_factory.mktemp("facts") / "places.json"
    wrong = replace(found[0], target_true="Seattle", id="wrong")
    path.write_text(json.dumps([fact.to_dict() for fact in (*found, wrong)]), encoding="utf-8")
    return path


@pytest.fixture
def options(neox: Path, corpus: Path, cache: Path, facts: Path) -> list[object]:
    return [
        *("locate-edit", facts, "--model", neox, "--layers", "1,2", "--window", 2, "--samples", 2),
        *("--threshold", -1, "--corpus", corpus, "--tokens", 1000),
    ]


def test_one_command_makes_one_report(cli: Cli, options: list[object], here: Path) -> None:
    done = cli(*options, "--out", "report.html", "--out", "report.json", "--out", "report.csv", "--json")
    record = done.record
    assert record["layers"] == [1, 2] and len(record["facts"]) == 5 and record["given"] == 6
    assert record["source"] == "places.json" and record["left"][0]["fact"] == "wrong"
    assert json.loads((here / "report.json").read_text(encoding="utf-8")) == record
    assert "Where to edit: controls" in (here / "report.html").read_text(encoding="utf-8")
    assert len((here / "report.csv").read_text(encoding="utf-8").splitlines()) == 1 + 5 * 4
    assert done.err.count("written: ") == 3


def test_it_tells_people(cli: Cli, options: list[object], here: Path) -> None:
    done = cli(*options, "--limit", 4, "--score", "ps")
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "4 of 6 facts" in said and "against layer 1, the fixed depth" in said and "the PS" in said
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (("--layers", "1,9"), "layers 0 to 3, not 9"),
        (("--layers", "one"), "one"),
        (("--method", "best"), "no method 'best'"),
        (("--threshold", 1), "0 of 6 facts can be traced and edited, and 3 are needed"),
        (("--out", "report.png"), "the formats that can be written are .html, .json, .csv, .parquet"),
        (("--limit", 2), "--limit"),
        (("--score", "best"), "--score"),
    ],
)
def test_mistakes(cli: Cli, options: list[object], here: Path, mistake: tuple[object, ...], said: str) -> None:
    done = cli(*options, *mistake)
    assert done.code == 2 and said in done.err, done.err
    assert not list(here.iterdir())


def test_outputs_are_checked_before_any_work(cli: Cli, options: list[object], no_model: None) -> None:
    refused(cli(*options, "--out", "nowhere/report.html"), "the folder nowhere does not exist")
