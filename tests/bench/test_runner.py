"""A run ends with the same rows however often it was stopped, and one record's failure is that record's alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_engine.bench import plan as plans
from rome_engine.bench import work
from rome_engine.bench.datasets import DataSet
from rome_engine.bench.metrics import applicable, named
from rome_engine.bench.plan import Plan
from rome_engine.bench.record import Record
from rome_engine.bench.run import BEFORE, Row, Run
from rome_engine.bench.run_file import RunFile, read_run
from rome_engine.bench.runner import run_benchmark
from rome_engine.edit import editor
from rome_engine.errors import BenchError, InUseError, RunError, StorageError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.bench.records import records
from tests.edit.examples import bit_equal, random_moment, state

METHODS = ["rome", "r-rome", "emmet", "memit", "memit-history", "alphaedit", "ft-l"]


def data(count: int = 6) -> DataSet:
    return DataSet("some", "f" * 64, records(count), (), Path("some.json"))


def arguments(model: LanguageModel, method: str) -> dict[str, Any]:
    config = editor(method).default(model, 2)
    if hasattr(config, "value"):
        config = replace(config, value=replace(config.value, steps=3))
    if hasattr(config, "lengths"):
        config = replace(config, lengths=(3, 4))
    moments = {layer: random_moment(model.architecture.d_mlp, layer) for layer in editor(method).layers(config)}
    return {"config": config, "moments": moments}


def plan(method: str, protocol: Any = "single", **others: Any) -> Plan:
    return Plan(method, ("es@1", "ps@1", "ns@1", "em@1", "kl@1", "locality@1", "free_em@1"), protocol, **others)


def rows(run: Run) -> list[Row]:
    return [replace(row, seconds={}) for row in run.rows]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of two records, so that a few are several groups."""
    monkeypatch.setattr("rome_engine.bench.plan.GROUP", 2)


@pytest.mark.parametrize("method", METHODS)
def test_single_edits_are_those_of_one_record_at_a_time(method: str, tmp_path: Path) -> None:
    """The original recipe: edit the weights, score, restore."""
    model = tiny.language_model("llama")
    before = state(model)
    given = arguments(model, method)
    some = data(4)
    run = run_benchmark(model, plan(method), some, tmp_path / "r", untouched=tmp_path / "u", **given)
    assert bit_equal(model, before)
    metrics = named(plan(method).metrics)
    for record, row in zip(some.records, run.at(0), strict=True):
        assert row.status == "done", row
        alone = run_benchmark(
            model, plan(method, "batch"), replace(some, records=(record,)), tmp_path / record.id, **given,
            untouched=tmp_path / "v",
        )  # fmt: skip
        expected = alone.at(0)[0].figures
        assert set(expected) == set(row.figures) == {metric.name for metric in metrics}
        assert row.figures == pytest.approx(expected, abs=2e-4), record
    assert any(row.figures != other.figures for row, other in zip(run.at(0), run.at(BEFORE), strict=True))


@pytest.mark.parametrize(
    ("method", "protocol"),
    [
        ("r-rome", "single"),
        ("memit", "batch"),
        ("memit-history", "sequential"),
        ("rome", "sequential"),
        ("ft-l", "sequential"),
    ],
)
def test_stopped_at_any_moment_it_ends_the_same(
    method: str, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    model = tiny.language_model("llama")
    before = state(model)
    given = arguments(model, method)
    wanted = plan(method, protocol, batch=3)
    whole = run_benchmark(model, wanted, data(7), tmp_path / "whole", untouched=tmp_path / "u", **given)
    path, sittings = tmp_path / "stopped", 0
    kept = RunFile.keep

    def stopping(self: RunFile, *of: Any) -> None:
        kept(self, *of)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFile, "keep", stopping)
    while True:
        try:
            run = run_benchmark(model, wanted, data(7), path, untouched=tmp_path / "v", **given)
            break
        except KeyboardInterrupt:
            sittings += 1
            assert bit_equal(model, before)
        assert sittings < 40
    assert sittings > 3
    assert rows(run) == rows(whole)
    again = run_benchmark(model, wanted, data(7), path, untouched=tmp_path / "v", **given)
    assert again.rows == run.rows


def _killed(path: Path, method: str, protocol: str, at: int, untouched: Path) -> None:
    torch.set_num_threads(1)
    plans.GROUP = 2
    model = tiny.language_model("llama")
    kept, count = RunFile.keep, [0]

    def dying(self: RunFile, *of: Any) -> None:
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        kept(self, *of)

    RunFile.keep = dying  # type: ignore[method-assign]
    run_benchmark(
        model, plan(method, protocol, batch=2), data(6), path, untouched=untouched, **arguments(model, method)
    )


@pytest.mark.parametrize(
    ("method", "protocol", "at"),
    [("memit", "sequential", 4), ("memit", "sequential", 5), ("r-rome", "single", 5), ("emmet", "batch", 5)],
)
def test_killed_and_gone_on_with(method: str, protocol: str, at: int, tmp_path: Path, small: None) -> None:
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        path = tmp_path / "run"
        given: Any = (path, method, protocol, at, tmp_path / "u")
        child = multiprocessing.get_context("spawn").Process(target=_killed, args=given)
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL
        assert 0 < len(read_run(path).rows) < 12
        model = tiny.language_model("llama")
        given = arguments(model, method)
        wanted = plan(method, protocol, batch=2)
        run = run_benchmark(model, wanted, data(6), path, untouched=tmp_path / "u", **given)
        whole = run_benchmark(model, wanted, data(6), tmp_path / "whole", untouched=tmp_path / "v", **given)
        for row, expected in zip(rows(run), rows(whole), strict=True):
            # Two processes may round differently: BLAS takes other paths where memory is aligned otherwise.
            assert row.figures == pytest.approx(expected.figures, rel=0, abs=1e-7)
            assert replace(row, figures={}) == replace(expected, figures={})
    finally:
        torch.set_num_threads(torch_threads)


def test_retention_has_a_row_for_every_record_so_far_at_every_checkpoint(tmp_path: Path, small: None) -> None:
    model = tiny.language_model("llama")
    given = arguments(model, "memit-history")
    seen = []

    def general(model: LanguageModel) -> dict[str, float]:
        seen.append(model.weight_hash())
        return {"perplexity": float(len(seen))}

    run = run_benchmark(
        model, plan("memit-history", "sequential", batch=3), data(7), tmp_path / "r", general=general,
        untouched=tmp_path / "u", **given,
    )  # fmt: skip
    assert [len(run.at(checkpoint)) for checkpoint in (BEFORE, 0, 1, 2)] == [7, 3, 6, 7]
    assert [row.batch for row in run.at(2)] == [0, 0, 0, 1, 1, 1, 2]
    assert ["edit" in row.seconds for row in run.at(2)] == [False] * 6 + [True]
    assert sum(row.seconds["edit"] > 0 for at in (0, 1, 2) for row in run.at(at) if "edit" in row.seconds) == 7
    assert len(set(seen)) == 4 and seen[0] == model.weight_hash()
    assert [run.general[at]["perplexity"] for at in (BEFORE, 0, 1, 2)] == [1, 2, 3, 4]
    # What a later batch does to an earlier record is seen.
    first, last = run.at(0)[0].figures, run.at(2)[0].figures
    assert first["em@1"] != last["em@1"]


def test_it_is_told_of_which_batch_the_work_is(tmp_path: Path) -> None:
    model = tiny.language_model("llama")
    given = arguments(model, "memit")
    told: list[str] = []
    for size in (2, 4):
        run_benchmark(
            model, plan("memit", "sequential", batch=size), data(4), tmp_path / str(size), untouched=tmp_path / "u",
            told=lambda phase, _done, _of: told.append(phase), **given,
        )  # fmt: skip
    phases = list(dict.fromkeys(told))
    assert phases == [
        "asking the untouched model",
        *(f"batch {n} of 2: {what}" for n in (1, 2) for what in ("editing: steps of a batch", "scoring")),
        "editing: steps of a batch",
        "scoring",
    ]


def test_all_so_far_can_be_scored_after_every_so_many_batches_only(tmp_path: Path, small: None) -> None:
    model = tiny.language_model("llama")
    given = arguments(model, "memit-history")
    runs = [
        run_benchmark(
            model, plan("memit-history", "sequential", batch=2, every=every), data(7), tmp_path / str(every), **given
        )
        for every in (1, 3)
    ]
    assert [[row.position for row in runs[1].at(at)] for at in (0, 1, 2, 3)] == [
        [0, 1], [2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6],
    ]  # fmt: skip
    figures = [{(row.position, row.checkpoint): row.figures for row in run.rows} for run in runs]
    for place, found in figures[1].items():
        assert found == pytest.approx(figures[0][place], abs=1e-5)
    with pytest.raises(BenchError, match="not every 0"):
        plan("memit", "sequential", every=0)


def test_what_fails_is_marked_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    """An edit that cannot be made, memory that runs out, and numbers that are not finite."""
    model = tiny.language_model("llama")
    given = arguments(model, "r-rome")
    good = data(6)
    broken = list(good.records)
    long = replace(broken[1].edits[0], target_new="Rome " * 200)
    broken[1] = replace(broken[1], edits=(long,))
    answer = work.answer

    def failing(model: LanguageModel, asks: Any, **others: Any) -> Any:
        found = answer(model, asks, **others)
        texts = {ask.text for some in asks for ask in some}
        if broken[2].edits[0].text in texts and "chosen" in others:
            raise MemoryError("out of memory")
        if broken[3].edits[0].text in texts and "chosen" in others:
            place = [broken[3].edits[0].text in {ask.text for ask in some} for some in asks].index(True)
            for one in found[place].found.values():
                if hasattr(one, "nll"):
                    object.__setattr__(one, "nll", float("nan"))
        return found

    monkeypatch.setattr(work, "answer", failing)
    run = run_benchmark(
        model, plan("r-rome"), replace(good, records=tuple(broken)), tmp_path / "r", untouched=tmp_path / "u", **given
    )
    after = run.at(0)
    assert [row.status for row in after] == ["done", "failed", "failed", "failed", "done", "done"]
    assert "tokens" in str(after[1].reason) and "MemoryError: out of memory" in str(after[2].reason)
    assert "not finite" in str(after[3].reason)


def test_a_batch_that_cannot_be_made_is_left_out(tmp_path: Path, small: None) -> None:
    model = tiny.language_model("llama")
    given = arguments(model, "memit")
    good = data(6)
    broken = list(good.records)
    broken[0] = replace(broken[0], edits=(replace(broken[0].edits[0], target_new="Rome " * 200),))
    run = run_benchmark(
        model, plan("memit", "sequential", batch=1), replace(good, records=tuple(broken)), tmp_path / "r",
        untouched=tmp_path / "u", **given,
    )  # fmt: skip
    assert [row.status for row in run.at(5)] == ["failed", *["done"] * 5]
    assert "tokens" in str(run.at(5)[0].reason)


def test_a_second_process_and_another_plan_are_refused(tmp_path: Path) -> None:
    model = tiny.language_model("llama")
    given = arguments(model, "r-rome")
    path = tmp_path / "r"
    run_benchmark(model, plan("r-rome"), data(2), path, untouched=tmp_path / "u", **given)
    with pytest.raises(RunError, match="seed 0, and now it is 1"):
        run_benchmark(model, plan("r-rome", seed=1), data(2), path, untouched=tmp_path / "u", **given)
    with RunFile(path), pytest.raises(InUseError, match="another process is using"):
        run_benchmark(model, plan("r-rome"), data(2), path, untouched=tmp_path / "u", **given)
    (tmp_path / "text").write_text("no database at all, but some text that is long enough to be taken for one" * 9)
    with pytest.raises(StorageError, match="damaged or no benchmark run"):
        run_benchmark(model, plan("r-rome"), data(2), tmp_path / "text", untouched=tmp_path / "u", **given)
    with pytest.raises(StorageError, match="there is no benchmark run"):
        read_run(tmp_path / "none")


def test_the_untouched_model_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    asked: list[int] = []
    answer = work.answer
    monkeypatch.setattr(
        "rome_engine.bench.untouched.answer", lambda *of, **others: (asked.append(1), answer(*of, **others))[1]
    )
    for method in ("r-rome", "rome", "memit"):
        run_benchmark(
            model, plan(method), data(3), tmp_path / method, untouched=tmp_path / "u", **arguments(model, method)
        )
        assert len(asked) == 1


def test_order_and_limit(tmp_path: Path) -> None:
    some = data(6)
    first = [record.id for record in Plan("memit", ("es@1",), order="random", seed=1).records(some)]
    assert sorted(first) == sorted(record.id for record in some.records) and first != [one.id for one in some.records]
    assert [one.id for one in Plan("memit", ("es@1",), order="random", seed=1, limit=2).records(some)] == first[:2]
    with pytest.raises(BenchError, match="at least one metric"):
        Plan("memit", ())


def test_metrics_that_apply() -> None:
    found = applicable(records(2))
    assert {"es@1", "ps@1", "ns@1", "kl@1", "free_em@1"} <= set(found) and not {"ge@1", "multihop@1"} & set(found)
    assert applicable([Record("x", (Fact("{} is", "Rome", target_new="a"),))]) == ()
