"""Numbers that are not finite mark their record, whatever is measured: a comparison with NaN is only ever false."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_engine.bench import effects, locate_sweep
from rome_engine.bench.counterfact import score
from rome_engine.bench.general import perplexity
from rome_engine.bench.metrics import metrics
from rome_engine.bench.plan import Plan
from rome_engine.bench.run import BEFORE, Run
from rome_engine.bench.runner import run_benchmark
from rome_engine.bench.work import Work
from rome_engine.edit import editor
from rome_engine.edit.edit import Edit
from rome_engine.errors import NotFiniteError
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.bench.records import records
from tests.bench.test_runner import arguments, data

SOME = replace(
    data(3),
    records=tuple(
        replace(one, essence=("The capital of France is Paris",), references=("The capital of Italy is Rome.",))
        for one in records(3)
    ),
)
OF_THESE = [name for name, metric in metrics().items() if any(True for _ in metric.asks(SOME.records[0]))]


def broken(edit: Edit) -> Edit:
    """The same with a number that is none."""
    layers = {at: replace(one, left=torch.full_like(one.left, torch.nan)) for at, one in edit.layers.items()}
    return replace(edit, layers=layers)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few tokens of free text will do."""
    monkeypatch.setattr("rome_engine.bench.metrics.openings.TOKENS", 3)
    monkeypatch.setattr("rome_engine.bench.metrics.free.TOKENS", 3)


@pytest.fixture
def second_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edit of record "1" is broken."""
    made = Work.edits

    def edits(self: Work, some: Sequence[Any]) -> list[Edit]:
        found = made(self, some)
        return [broken(one) if record.id == "1" else one for record, one in zip(some, found, strict=True)]

    monkeypatch.setattr(Work, "edits", edits)


def run_of(names: Sequence[str], path: Path, model: LanguageModel | None = None) -> Run:
    model = model or tiny.language_model("llama")
    plan = Plan("r-rome", tuple(names))
    return run_benchmark(model, plan, SOME, path, untouched=path.with_suffix(".u"), **arguments(model, "r-rome"))


@pytest.mark.parametrize("name", OF_THESE)
def test_a_record_whose_edit_is_broken_is_marked_whatever_is_measured(
    name: str, tmp_path: Path, second_breaks: None
) -> None:
    run = run_of([name], tmp_path / "r")
    after = run.at(0)
    assert [row.status for row in after] == ["done", "failed", "done"]
    assert str(after[1].reason).startswith("not finite") and not after[1].figures
    assert all(math.isfinite(row.figures[name]) for row in after if row.status == "done")


def test_the_others_have_the_figures_that_they_have_without_it(
    tmp_path: Path, second_breaks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("es@1", "em@1", "kl@1", "locality@1", "free_em@1")
    beside = run_of(names, tmp_path / "r").at(0)
    monkeypatch.undo()
    whole = run_of(names, tmp_path / "w").at(0)
    assert [whole[place].figures for place in (0, 2)] == [
        pytest.approx(beside[place].figures, abs=1e-6) for place in (0, 2)
    ]


def test_a_model_that_is_broken_before_any_edit_is_refused(tmp_path: Path) -> None:
    model = tiny.language_model("llama")
    with torch.no_grad():
        model.weight(3).fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="logits"):
        run_of(["es@1"], tmp_path / "r", model)


def test_an_untouched_model_that_is_broken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rome_engine.bench.untouched import Untouched

    known = Untouched.answers

    def odd(self: Untouched, asked: Any, *others: Any) -> Any:
        found = known(self, asked, *others)
        for one in found[0].found.values():
            object.__setattr__(one, "nll", math.nan)
        return found

    monkeypatch.setattr(Untouched, "answers", odd)
    run = run_of(["es@1"], tmp_path / "r")
    assert run.at(0)[0].reason == run.at(BEFORE)[0].reason == "not finite on the untouched model: scores of answers"


def test_a_perplexity_that_is_no_number_stays_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a figure of the whole model: the rows are kept, and the figure is never a number."""
    model = tiny.language_model("llama")

    def general(model: LanguageModel) -> dict[str, float]:
        return {"perplexity": perplexity(model, "The capital of France is Paris").value}

    solve = Work.solve

    def broke(self: Work, *of: Any, **others: Any) -> Any:
        solution = solve(self, *of, **others)
        return replace(solution, edit=broken(solution.edit))

    monkeypatch.setattr(Work, "solve", broke)
    monkeypatch.setattr("rome_engine.edit.edit.require_finite", lambda *_: None)
    run = run_benchmark(
        model, Plan("memit", ("es@1", "ns@1", "locality@1"), "batch"), data(3), tmp_path / "r", general=general,
        untouched=tmp_path / "u", **arguments(model, "memit"),
    )  # fmt: skip
    assert {row.status for row in run.at(0)} == {"failed"} and {row.status for row in run.at(BEFORE)} == {"done"}
    assert math.isfinite(run.general[BEFORE]["perplexity"]) and math.isnan(run.general[0]["perplexity"])


@pytest.mark.parametrize("top_k", [0, 5])
@pytest.mark.parametrize("seed", [0, [0]])
def test_nothing_is_generated_of_nan(top_k: int, seed: int | list[int]) -> None:
    model = tiny.language_model("llama")
    with torch.no_grad():
        model.weight(0).fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="logits"):
        model.generate([model.tokenize("The Louvre is in")], 3, top_k=top_k, seed=seed)


ASKED: dict[str, Callable[[LanguageModel, Any], Any]] = {
    "counterfact": lambda model, facts: score(model, facts),
    "effects": lambda model, facts: effects.ask(model, facts),
}


@pytest.mark.parametrize("name", ASKED)
def test_scores_outside_a_run_are_refused(name: str) -> None:
    model = tiny.language_model("llama")
    facts = [record.edits[0] for record in records(2)]
    ASKED[name](model, facts)
    with torch.no_grad():
        model.weight(0).fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="likelihoods of answers"):
        ASKED[name](model, facts)


def test_a_sweep_leaves_out_the_fact_whose_edit_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    facts = [replace(record.edits[0], id=record.id) for record in records(3)]
    given = arguments(model, "r-rome")
    method = editor("r-rome")
    monkeypatch.setattr(type(method), "default", lambda *_: given["config"])
    whole, _ = locate_sweep.sweep(model, method, facts, given["moments"], [2])
    made = locate_sweep.single_edits

    def edits(model: Any, editor: Any, some: Any, *others: Any) -> list[Edit]:
        found = made(model, editor, some, *others)
        return [broken(one) if fact.id == "1" else one for fact, one in zip(some, found, strict=True)]

    monkeypatch.setattr(locate_sweep, "single_edits", edits)
    found, refused = locate_sweep.sweep(model, method, facts, given["moments"], [2])
    assert [(one.fact, one.layer) for one in refused] == [("1", 2)] and "not finite" in refused[0].reason
    for name, values in found.items():
        assert math.isnan(values[1, 0])
        assert values[[0, 2], 0] == pytest.approx(whole[name][[0, 2], 0], abs=1e-6, nan_ok=True)


def test_every_metric_that_can_be_asked_here_is_asked_here() -> None:
    wanted = {"es", "em", "ea", "kl", "locality", "ge", "rs", "free_em", "zsre_efficacy", "essence_ppl"}
    assert wanted <= {name.partition("@")[0] for name in OF_THESE}
