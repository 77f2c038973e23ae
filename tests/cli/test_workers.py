"""`--workers` of the commands that have it: the results of one process, also when a worker is killed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from os.path import relpath
from pathlib import Path
from typing import Any

import pytest

from rome_engine.bench.run import Row
from rome_engine.bench.run_file import read_run
from rome_engine.cli import loading, spreading
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment
from rome_engine.trace import Trace, Tracer
from tests import tiny
from tests.cli.conftest import Cli, refused
from tests.ray_cluster import ROOT, die_once, running
from tests.stats.texts import paragraphs
from tests.trace.known_facts import known_facts

TWO = ("--workers", 2)


def load_and_die(flag: Path, *given: Any) -> LanguageModel:
    """A worker's model; the first worker to come so far is killed at its second batch, or its second fact."""
    update, maps, batches, facts = SecondMoment.update, Tracer.maps, list[int](), list[int]()

    def dying_update(moment: SecondMoment, keys: Any) -> None:
        batches.append(1)
        if len(batches) == 2:
            die_once(flag)
        update(moment, keys)

    def dying_maps(self: Tracer, fact: Fact, *rest: Any) -> list[Trace]:
        facts.append(1)
        if len(facts) == 2:
            die_once(flag)
        return maps(self, fact, *rest)

    SecondMoment.update, Tracer.maps = dying_update, dying_maps  # type: ignore[method-assign]
    return loading.load(*given)


@pytest.fixture
def flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there when a worker was killed."""
    path = tmp_path / "flag"
    monkeypatch.setattr(spreading, "load", partial(load_and_die, path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return path


@pytest.fixture(scope="module")
def _two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with running(tmp_path_factory.mktemp("cache")):
        yield


def test_stats_on_a_cluster_of_their_own(
    cli: Cli, neox: Path, here: Path, flag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "text.txt").write_text("\n\n".join(paragraphs(900)), encoding="utf-8")
    options = (
        "stats",
        "-m",
        relpath(neox, here),
        "--corpus",
        "text.txt",
        "--layers",
        3,
        "--tokens",
        6 * 4096,
        "--json",
    )
    found, kept = [], []
    for name, more in (("here", ()), ("there", TWO)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(here / name))
        found.append({**cli(*options, *more).record, "seconds": 0})
        kept.append([path.read_bytes() for path in (here / name).rglob("*.safetensors")])
    assert flag.exists() and found[0] == found[1]
    assert kept[0] == kept[1] and len(kept[0]) == 1
    import ray

    assert not ray.is_initialized()


@pytest.mark.usefixtures("_two_workers")
def test_facts_are_traced(cli: Cli, neox: Path, here: Path, flag: Path) -> None:
    facts = [fact.to_dict() for fact in known_facts(tiny.shared("neox"), 6)]
    (here / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    options = ["trace-facts", "facts.json", "-m", neox, "--tokens", "last-subject,last", "--samples", 2]
    options += ["--noise", 1.0, "--window", 2, "--include-small", "--json"]
    found = [
        {**cli(*options, "--run", name, *more).record, "seconds": 0} for name, more in (("here", ()), ("there", TWO))
    ]
    assert flag.exists() and found[0] == found[1] and found[0]["counts"]["traced"] == 6
    flag.unlink()
    assert {**cli(*options, "--run", "there", *TWO).record, "seconds": 0} == found[0]
    assert not flag.exists()  # all was there


@pytest.mark.usefixtures("_two_workers")
def test_records_are_edited(
    cli: Cli, neox: Path, here: Path, corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rome_engine.bench.plan.GROUP", 1)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    records = [
        {"prompt": "You can find {} in", "subject": subject, "target_true": "Paris", "target_new": "Rome"}
        for subject in ("The Louvre", "The Eiffel Tower", "The Colosseum")
    ]
    (here / "facts.json").write_text(json.dumps(records), encoding="utf-8")
    options = ["bench", "--data", "facts.json", "-m", neox, "--layer", 1, "--corpus", corpus, "--tokens", 1000]
    for name, more in (("here", ()), ("there", TWO)):
        assert cli(*options, "--run", name, *more).code == 0
    assert rows("here") == rows("there")
    assert {row.status for row in rows("there")} == {"done"}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("command", [("stats", "--corpus", "text.txt"), ("trace-facts",), ("bench",)])
def test_what_cannot_be_is_said_before_any_work(
    cli: Cli, here: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "text.txt").write_text("some text", encoding="utf-8")
    refused(cli(*command, "--ray", "auto"), "give --workers")
    refused(cli(*command, "--workers", 0), "workers")
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(cli(*command, *TWO), "Ray is not installed: pip install 'rome-engine[ray]'")
    assert [path.name for path in here.iterdir()] == ["text.txt"]


@pytest.mark.usefixtures("no_model")
def test_a_part_is_collected_in_one_process(cli: Cli, here: Path) -> None:
    (here / "text.txt").write_text("some text", encoding="utf-8")
    options = ("--corpus", "text.txt", "--shard", "1/2", "--out", "part")
    refused(cli("stats", *options, *TWO), "--shard is collected in one process: leave --workers out")


def rows(path: str) -> list[Row]:
    """In one order, and without the time."""
    found = (replace(row, seconds={}) for row in read_run(path).rows)
    return sorted(found, key=lambda row: (row.checkpoint, row.position))
