"""Facts traced elsewhere: the rows of a run in one process, whoever dies."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replica import Replica
from rome_engine.trace import Settings, Trace, Tracer, spreading
from rome_engine.trace.average import Average
from rome_engine.trace.factfile import FactFile
from rome_engine.trace.known import AnswerTokens
from rome_engine.trace.over_facts import Numbered, Spread, Traced, trace_facts
from rome_engine.trace.spreading import spreader
from tests import tiny
from tests.ray_cluster import CLUSTER, die_once, load, model_folder, running
from tests.trace.known_facts import fact_file, known_facts, whole_facts

SETTINGS = Settings(kinds=("hidden", "mlp"), windows=(2,), corruptions=(1.0,), samples=2, positions="last-subject,last")

Maps = Callable[..., list[Trace]]


def beside(model: LanguageModel, seen: list[object]) -> Spread:
    """What workers do, done in this process, the last fact first; noted are the records, and when it is over."""

    def spread(
        settings: Settings, answer_tokens: AnswerTokens, facts: Iterable[Numbered]
    ) -> Generator[Traced, None, None]:
        work = spreading._Making(Replica.of(model, lambda: model), settings, answer_tokens)()
        try:
            for fact in reversed(list(facts)):
                seen.append(fact[0])
                yield work(fact)
        finally:
            seen.append("over")

    return spread


def some(model: LanguageModel, count: int) -> FactFile:
    """So many facts, of which the third is not known."""
    facts = known_facts(model, count)
    facts[2] = replace(facts[2], target_true="Seattle")
    return fact_file(facts)


def run(model: LanguageModel, facts: FactFile, path: Path, **options: Any) -> Average:
    return trace_facts(model, facts, SETTINGS, path, **{"resamples": 1000, "include_small": True, **options})


def numbers(average: Average) -> str:
    """All that an average says, to the last bit, but the time that it took."""
    return json.dumps({**average.to_dict(), "seconds": 0})


def rows(path: Path) -> list[Any]:
    """All that the file holds of the facts but the time, to the last bit."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT record, fact, status, reason, maps FROM facts ORDER BY record").fetchall()
    finally:
        connection.close()


def failing(maps: Maps, text: str) -> Maps:
    """Tracing that fails for one fact."""

    def trace(self: Tracer, fact: Fact, *rest: Any) -> list[Trace]:
        if fact.text == text:
            raise ValueError("it broke\nin two lines")
        return maps(self, fact, *rest)

    return trace


def test_interrupted_here_or_there_it_goes_on_there_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.shared("neox")
    facts, seen = some(model, 6), list[object]()
    monkeypatch.setattr(Tracer, "maps", failing(Tracer.maps, facts.facts[1][1].text))
    whole, there = run(model, facts, tmp_path / "whole"), {"spread": beside(model, seen)}
    assert (whole.counts.failed, whole.counts.traced) == (1, 4)

    def watch(part: str) -> Any:
        def tick(done: int, _total: int) -> None:
            if part == "tracing" and done == 2:
                raise KeyboardInterrupt

        return tick

    for name, first, second in (("a", there, {}), ("b", {}, there)):
        with pytest.raises(KeyboardInterrupt):
            run(model, facts, tmp_path / name, **first, watch=watch)
        if first:
            assert seen == [6, 5, "over"]  # the workers were ended, and what they had done is kept
            seen.clear()
        assert numbers(run(model, facts, tmp_path / name, **second)) == numbers(whole)
        assert rows(tmp_path / name) == rows(tmp_path / "whole")
    seen.clear()
    monkeypatch.undo()
    run(model, facts, tmp_path / "a", **there)
    assert len(seen) == 2 and seen[1] == "over"  # only what failed is tried again
    run(model, facts, tmp_path / "a", **there)
    assert len(seen) == 2  # nothing is open: no workers are started


@pytest.mark.parametrize("answer_tokens", ["all", "first"])
def test_workers_trace_with_the_settings_of_the_run(answer_tokens: AnswerTokens, tmp_path: Path) -> None:
    model = tiny.shared("neox")
    facts = fact_file(whole_facts(model, 2))
    for name, options in (("here", {}), ("there", {"spread": beside(model, [])})):
        run(model, facts, tmp_path / name, answer_tokens=answer_tokens, **options)
    assert rows(tmp_path / "here") == rows(tmp_path / "there")


# On a cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model's folder, while a cluster runs."""
    with running(tmp_path_factory.mktemp("cache")):
        yield model_folder(tmp_path_factory.mktemp("model"))


def load_and_die(folder: Path, flag: Path, text: str) -> LanguageModel:
    """A model whose worker fails for one fact, and is killed in its second if it is the first to come so far."""
    maps, calls = failing(Tracer.maps, text), list[int]()

    def dying(self: Tracer, fact: Fact, *rest: Any) -> list[Trace]:
        found = maps(self, fact, *rest)
        calls.append(1)
        if len(calls) == 2:
            die_once(flag)
        return found

    Tracer.maps = dying  # type: ignore[method-assign]
    return load(folder)


def test_rows_are_those_of_one_process_also_when_a_worker_is_killed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, flag, told = load(folder), tmp_path / "flag", list[tuple[int, int]]()
    facts = some(model, 8)
    broken = facts.facts[1][1].text
    with monkeypatch.context() as patched:
        patched.setattr(Tracer, "maps", failing(Tracer.maps, broken))
        here = run(model, facts, tmp_path / "here")
    assert (here.counts.failed, here.counts.traced) == (1, 6)
    spread = spreader(CLUSTER, Replica.of(model, partial(load_and_die, folder, flag, broken)))

    def watch(part: str) -> Any:
        return lambda done, total: told.append((done, total)) if part == "tracing" else None

    there = run(model, facts, tmp_path / "there", spread=spread, watch=watch)
    assert flag.exists() and numbers(there) == numbers(here)
    assert rows(tmp_path / "there") == rows(tmp_path / "here")
    assert told == [(done, 7) for done in range(8)]
