"""In a batch, too, what fails in one record is that record's alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from rome_engine.bench.batch_edit import make
from rome_engine.bench.metrics import named
from rome_engine.bench.run import Run
from rome_engine.bench.run_file import RunFile
from rome_engine.bench.runner import run_benchmark
from rome_engine.bench.untouched import Untouched
from rome_engine.bench.work import Work
from rome_engine.edit import editor, value, values
from rome_engine.errors import EditError
from tests import tiny
from tests.bench.records import records
from tests.bench.test_runner import arguments, data, plan, rows
from tests.edit.examples import bit_equal, state

BAD = 2
SUBJECT = records(4)[BAD].edits[0].subject


def breaking(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search of the third record's value runs out of memory, or its loss is not finite."""
    search, losses = value.search, value._losses

    def memory(batch: Any, *of: Any, **others: Any) -> Iterator[Any]:
        if any(question.fact.subject == SUBJECT for question in batch.questions):
            raise MemoryError("out of memory")
        return search(batch, *of, **others)

    def nan(batch: Any, *of: Any) -> Any:
        found, essence = losses(batch, *of)
        bad = [question.fact.subject == SUBJECT for question in batch.questions]
        return found.masked_fill(found.new_tensor(bad).bool(), float("nan")), essence

    if kind == "memory":
        monkeypatch.setattr(values, "search", memory)
    else:
        monkeypatch.setattr(value, "_losses", nan)


def run_of(path: Path, method: str, protocol: str, *, without: bool = False) -> Run:
    model = tiny.language_model("llama")
    before = state(model)
    some = data(4)
    if without:
        some = replace(some, records=tuple(one for at, one in enumerate(some.records) if at != BAD))
    found = run_benchmark(
        model, plan(method, protocol, batch=2), some, path, untouched=path.with_suffix(".u"), **arguments(model, method)
    )
    assert bit_equal(model, before)
    return found


@pytest.mark.parametrize(("kind", "said"), [("memory", "MemoryError: out of memory"), ("nan", "the loss is nan")])
@pytest.mark.parametrize(
    ("method", "protocol"),
    [("memit", "batch"), ("memit", "sequential"), ("memit-history", "sequential"), ("r-rome", "batch"),
     ("r-rome", "sequential"), ("r-rome", "single")],
)  # fmt: skip
def test_a_record_that_fails_is_left_out_of_its_batch(
    kind: str, said: str, method: str, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaking(kind, monkeypatch)
    run = run_of(tmp_path / "r", method, protocol)
    last = run.at(run.last)
    assert [row.status for row in last] == ["done", "done", "failed", "done"]
    assert said in str(last[BAD].reason) and "edit" not in last[BAD].seconds
    monkeypatch.undo()
    if protocol != "sequential" or method == "r-rome":  # other batches are other edits
        whole = run_of(tmp_path / "w", method, protocol, without=True)
        expected = {row.id: row.figures for row in whole.at(whole.last)}
        for row in last[:BAD] + last[BAD + 1 :]:
            assert row.figures == pytest.approx(expected[row.id], abs=2e-4)


def test_a_run_with_a_record_left_out_goes_on_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking("nan", monkeypatch)
    whole = run_of(tmp_path / "whole", "memit", "sequential")
    kept = RunFile.keep_states

    def stopping(self: RunFile, contents: Any) -> None:
        kept(self, contents)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFile, "keep_states", stopping)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_of(tmp_path / "stopped", "memit", "sequential")
    assert rows(run_of(tmp_path / "stopped", "memit", "sequential")) == rows(whole)


@pytest.mark.parametrize("method", ["memit", "r-rome"])
def test_a_batch_of_which_all_fail_says_each_reason(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.language_model("llama")
    given = arguments(model, method)
    numbered = list(enumerate(records(3)))

    def failing(self: Work, facts: Any, *_: Any) -> Any:
        raise EditError(f"not {facts[0].subject}")

    monkeypatch.setattr(Work, "search", failing)
    with Untouched(model, tmp_path / "u") as untouched:
        work = Work.of(model, editor(method), given["moments"], given["config"], named(["es"]), untouched)
        made = make(work, numbered, {}, None)
    assert made.edit is None
    assert made.left_out == {at: f"not {record.edits[0].subject}" for at, record in numbered}


def test_a_solution_that_fails_is_the_batchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Work, *_: Any) -> Any:
        raise EditError("singular")

    monkeypatch.setattr(Work, "solve", failing)
    run = run_of(tmp_path / "r", "memit", "batch")
    assert [(row.status, row.reason) for row in run.at(0)] == [("failed", "singular")] * 4


@pytest.mark.parametrize(("method", "kept"), [("memit", False), ("memit-history", True)])
def test_a_batch_is_kept_in_pieces_and_its_keys_only_for_a_history(
    method: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_of(tmp_path / "whole", method, "sequential")
    monkeypatch.setattr("rome_engine.bench.run_file.PIECE", 1000)
    assert rows(run_of(tmp_path / "pieces", method, "sequential")) == rows(whole)
    with RunFile(tmp_path / "pieces") as file:
        sizes = [size for (size,) in file.sqlite.execute("SELECT length(content) FROM states")]
        assert max(sizes) == 1000 and len(sizes) > 8
        assert bool(safetensors.torch.load(file.state("0 keys"))) == kept  # type: ignore[arg-type]
        long = bytes(range(256)) * 11
        file.keep_states({"long": long, "nothing": b""})
        assert file.state("long") == long and file.state("nothing") == b"" and file.state("another") is None
