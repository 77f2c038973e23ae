"""Records spread over workers: the rows of a run without workers, whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_engine.bench import untouched, work
from rome_engine.bench.datasets import DataSet
from rome_engine.bench.metrics import named
from rome_engine.bench.plan import Plan
from rome_engine.bench.run import Row
from rome_engine.bench.runner import run_benchmark
from rome_engine.bench.spreading import spreader
from rome_engine.edit import editor
from rome_engine.errors import BenchError, ClusterError
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replica import Replica
from tests.bench.records import records
from tests.edit.examples import random_moment
from tests.ray_cluster import CLUSTER, die_once, load, model_folder, running

METRICS = ("es@1", "ns@1", "em@1", "kl@1", "locality@1", "free_em@1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model's folder, while a cluster runs."""
    with running(tmp_path_factory.mktemp("cache")):
        yield model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of two records, so that a few are several pieces."""
    monkeypatch.setattr("rome_engine.bench.plan.GROUP", 2)


def load_and_die(folder: Path, flag: Path) -> LanguageModel:
    """A model whose worker, if it is the first to come so far, is killed between editing and scoring."""
    answer = work.answer

    def dying(*given: Any, **others: Any) -> Any:
        if "chosen" in others:
            die_once(flag)
        return answer(*given, **others)

    work.answer = dying
    return load(folder)


def test_rows_are_those_of_one_process_also_when_a_worker_is_killed(folder: Path, tmp_path: Path) -> None:
    model, some, flag = load(folder), data(9), tmp_path / "flag"
    for method in ("ft-l", "memit"):
        plan, given = Plan(method, METRICS), arguments(model, method)
        local = run_benchmark(model, plan, some, tmp_path / method, untouched=tmp_path / "u", **given)
        # These workers get answers from a new file, and one of them dies.
        dies = method == "memit"
        known = tmp_path / ("v" if dies else "u")
        loading = partial(load_and_die, folder, flag) if dies else partial(load, folder)
        replica = Replica.of(model, loading)
        with spreader(CLUSTER, replica, model, plan, untouched=known, **given) as spread:
            run = run_benchmark(
                model, plan, some, tmp_path / f"{method}-spread", untouched=known, spread=spread, **given
            )
        assert rows(run.rows) == rows(local.rows)
        assert [row.status for row in run.at(0)] == ["failed", *["done"] * 8] and run.environment == local.environment
    assert flag.exists()


def test_the_workers_ask_the_untouched_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, some, plan = load(folder), data(5), Plan("ft-l", METRICS)
    given, asked_here = arguments(model, "ft-l"), []
    answer = untouched.answer

    def counted(*of: Any, **others: Any) -> Any:
        asked_here.append(of[1])
        return answer(*of, **others)

    monkeypatch.setattr(untouched, "answer", counted)
    told: list[str] = []
    with spreader(
        CLUSTER, Replica.of(model, partial(load, folder)), model, plan, untouched=tmp_path / "u", **given
    ) as spread:
        run_benchmark(
            model,
            plan,
            some,
            tmp_path / "r",
            untouched=tmp_path / "u",
            spread=spread,
            told=lambda *one: told.append(one[0]),
            **given,
        )
    # What the first record asks is too long: its group fails in the worker, and is asked again here, one by one.
    broken = {ask for metric in named(METRICS) for record in some.records[:2] for ask in metric.asks(record)}
    assert {ask for asks in asked_here for several in asks for ask in several} <= broken
    assert "asking the untouched model, by the workers" in told


def load_and_die_of_a_record(folder: Path) -> LanguageModel:
    """A model whose worker is killed whenever it scores the third record."""
    answer = work.answer

    def dying(*given: Any, **others: Any) -> Any:
        if "chosen" in others and "The Colosseum" in repr(given[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(*given, **others)

    work.answer = dying
    return load(folder)


def test_a_record_that_every_worker_dies_of_is_failed_and_the_others_are_done(folder: Path, tmp_path: Path) -> None:
    model, some = load(folder), data(4)
    plan, given = Plan("ft-l", METRICS), arguments(model, "ft-l")
    local = run_benchmark(model, plan, some, tmp_path / "local", untouched=tmp_path / "u", **given)
    replica = Replica.of(model, partial(load_and_die_of_a_record, folder))
    with spreader(CLUSTER, replica, model, plan, untouched=tmp_path / "u", **given) as spread:
        run = run_benchmark(model, plan, some, tmp_path / "r", untouched=tmp_path / "u", spread=spread, **given)
    (lost,) = (row for row in run.at(0) if row.position == 2)
    assert lost.status == "failed" and str(lost.reason).startswith("its worker died of it")
    others = [[row for row in rows(one.at(0)) if row.position != 2] for one in (run, local)]
    assert others[0] == others[1] and len(others[0]) == 3


def test_another_model_in_a_worker_is_refused(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    plan, given = Plan("r-rome", METRICS), arguments(model, "r-rome")
    with torch.no_grad():
        model.weight(0)[0, 0] += 1
    replica = Replica.of(model, partial(load, folder))
    path, known = tmp_path / "run", tmp_path / "u"
    with (
        spreader(CLUSTER, replica, model, plan, untouched=known, **given) as spread,
        pytest.raises(ClusterError, match="a worker has the weights"),
    ):
        run_benchmark(model, plan, data(3), path, untouched=known, spread=spread, **given)


def test_edits_on_top_of_each_other_are_not_spread(folder: Path) -> None:
    model = load(folder)
    plan, given = Plan("memit", METRICS, "sequential"), arguments(model, "memit")
    with (
        pytest.raises(BenchError, match="sequential cannot be spread"),
        spreader(CLUSTER, Replica.of(model, partial(load, folder)), model, plan, **given),
    ):
        pass


def data(count: int) -> DataSet:
    """Records of which the first cannot be edited."""
    some = list(records(count))
    broken = replace(some[0].edits[0], target_new="Rome " * 200)
    some[0] = replace(some[0], edits=(broken,))
    return DataSet("some", "f" * 64, tuple(some), (), Path("some.json"))


def arguments(model: LanguageModel, method: str) -> dict[str, Any]:
    config = editor(method).default(model, 2)
    if hasattr(config, "value"):
        config = replace(config, value=replace(config.value, steps=3))
    if hasattr(config, "lengths"):
        config = replace(config, lengths=(3, 4))
    moments = {layer: random_moment(model.architecture.d_mlp, layer) for layer in editor(method).layers(config)}
    return {"config": config, "moments": moments}


def rows(some: tuple[Row, ...]) -> list[Row]:
    return sorted((replace(row, seconds={}) for row in some), key=lambda row: (row.checkpoint, row.position))
