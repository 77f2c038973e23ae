"""What a piece of a run takes from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rome_engine.bench.answering import answer
from rome_engine.bench.asks import ForcedAnswer
from rome_engine.bench.metrics import named
from rome_engine.bench.untouched import Untouched
from rome_engine.bench.work import Work
from rome_engine.edit import closed_form, editor, values
from rome_engine.edit.values import Store
from tests import tiny
from tests.bench.records import records
from tests.bench.test_runner import arguments


@pytest.mark.parametrize(("store", "again"), [("cache", 0), ("file", 0), (None, 3)])
def test_values_are_searched_again_only_without_a_store(
    store: Store, again: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.language_model("llama")
    searched: list[Any] = []
    search = values.search

    def counted(batch: Any, *of: Any, **others: Any) -> Any:
        for one in search(batch, *of, **others):
            searched.append(one)
            yield one

    monkeypatch.setattr(values, "search", counted)
    given = arguments(model, "rome")
    with Untouched(model, tmp_path / "u") as untouched:
        place = tmp_path / "values" if store == "file" else store
        of = (model, editor("rome"), given["moments"], given["config"], named(["es"]), untouched)
        work = Work.of(*of, store=place)
        some = records(3)
        first = work.edits(some)
        work.fit(some[0].edits)
        searched.clear()
        second = work.edits(some)
        assert len(searched) == again
        work.fit(some[0].edits)
        assert len(searched) == again + bool(again)
    for one, other in zip(first, second, strict=True):
        assert one.layers[2].delta_norm == pytest.approx(other.layers[2].delta_norm, rel=1e-5)
    assert (tmp_path / "values").exists() == (store == "file")


def test_the_memory_is_that_of_the_search_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny.language_model("llama"), []
    searched = closed_form.values
    monkeypatch.setattr(closed_form, "values", lambda *of, **how: seen.append(how["memory"]) or searched(*of, **how))
    given = arguments(model, "rome")
    with Untouched(model, tmp_path / "u") as untouched:
        of = (model, editor("rome"), given["moments"], given["config"], named(["es"]), untouched)
        work = Work.of(*of, memory=12345, store=None)
        work.edits(records(2))
        work.fit(records(1)[0].edits)
    assert seen == [12345, 12345]


def test_answers_and_values_are_those_of_a_model_that_runs_the_same(tmp_path: Path) -> None:
    near, far = (tiny.language_model("mistral", sliding_window=window) for window in (2, None))
    assert near.weight_hash() == far.weight_hash()
    found = []
    for model in (near, far):
        given = arguments(model, "rome")
        with Untouched(model, tmp_path / "u") as untouched:
            of = (model, editor("rome"), given["moments"], given["config"], named(["es", "em"]), untouched)
            work = Work.of(*of, store=tmp_path / "values")
            (row,) = work.before([(0, records(1)[0])])
            (edit,) = work.edits(records(1))
            found.append((row.figures["em@1"], edit.layers[2].delta_norm))
    for here, there in zip(*found, strict=True):
        assert here != pytest.approx(there, rel=1e-3)


def test_little_memory_holds_few_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny.language_model("llama"), []
    unembed = model.unembed
    monkeypatch.setattr(model, "unembed", lambda hidden: seen.append(len(hidden)) or unembed(hidden))
    asks = [[ask for metric in named(["es", "ps", "ns"]) for ask in metric.asks(record)] for record in records(4)]
    whole = answer(model, asks)
    assert max(seen) > 8
    seen.clear()
    few = answer(model, asks, memory=5 * 4 * 12 * model.architecture.d_vocab)
    assert max(seen) <= 5 and len(seen) > 1
    for one, other in zip(whole, few, strict=True):
        for ask, said in one.found.items():
            assert isinstance(said, ForcedAnswer)
            assert other.found[ask].nll == pytest.approx(said.nll, rel=1e-5)  # type: ignore[union-attr]
