"""A run over facts: killed and gone on with, it gives the numbers of one that never was; no two runs are mixed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rome_engine.errors import InUseError, StorageError, TraceError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import Settings, Tracer
from rome_engine.trace.average import Average
from rome_engine.trace.factfile import FactFile, Malformed, read_facts
from rome_engine.trace.over_facts import asked, configuration, trace_facts
from rome_engine.trace.store import RunStore, check_run
from tests import tiny
from tests.trace.known_facts import fact_file, known_facts, whole_facts

SETTINGS = Settings(kinds=("hidden", "mlp"), windows=(2,), corruptions=(1.0,), samples=2, positions="last-subject,last")
Run = Callable[..., Average]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny.shared("neox")


@pytest.fixture(scope="module")
def facts(model: LanguageModel) -> FactFile:
    """Five known facts, one that is not, and a malformed record."""
    right = known_facts(model, 5)
    found = fact_file([*right[:2], replace(right[2], target_true="Seattle"), *right[2:]])
    return replace(found, malformed=(Malformed(7, "it is no fact"),))


@pytest.fixture
def run(model: LanguageModel, facts: FactFile, tmp_path: Path) -> Run:
    def trace(path: str = "run.sqlite", settings: Settings = SETTINGS, **options: Any) -> Average:
        given = {"facts": facts, "resamples": 1000, "include_small": True, **options}
        return trace_facts(model, settings=settings, run=tmp_path / path, **given)

    return trace


def numbers(average: Average) -> str:
    """All that an average says, to the last bit, but the time that it took."""
    return json.dumps({**average.to_dict(), "seconds": 0})


def interrupted(after: int) -> Any:
    """A watch that interrupts when so many facts are traced."""

    def watch(part: str) -> Any:
        def tick(done: int, _total: int) -> None:
            if part == "tracing" and done == after:
                raise KeyboardInterrupt

        return tick

    return watch


def test_the_counts_add_up_and_say_why(run: Run) -> None:
    found = run()
    counts = found.counts
    assert (counts.records, counts.malformed, counts.unknown, counts.known, counts.traced) == (7, 1, 1, 5, 5)
    assert [(one.record, one.status) for one in found.left] == [(3, "unknown"), (7, "malformed")]
    assert "not ' Seattle'" in found.left[0].reason and found.left[1].reason == "it is no fact"
    assert found.maps[0].averaged == 5 and found.seconds > 0
    assert found.provenance["weights"] and found.provenance["noise_sigma"] == {"gaussian:1": 1.0}


def test_every_fact_is_traced_as_it_is_alone(run: Run, model: LanguageModel, facts: FactFile) -> None:
    found = run()
    known = [fact for number, fact in facts.facts if number != 3]
    traces = [Tracer(model, SETTINGS).maps(replace(fact, target_true=None))[0] for fact in known]
    last = np.mean([trace.indirect_effect[-1] for trace in traces], axis=0)
    np.testing.assert_allclose(found.maps[0].mean[5], last, rtol=1e-12)


def test_the_whole_answer_is_scored_unless_only_the_first_token_counts(
    run: Run, model: LanguageModel, facts: FactFile, tmp_path: Path
) -> None:
    several = {"facts": fact_file(whole_facts(model, 2))}
    whole, first = run("whole.sqlite", **several), run("first.sqlite", answer_tokens="first", **several)
    assert (whole.counts.traced, first.counts.traced) == (2, 2)
    given = [fact for _, fact in several["facts"].facts]
    for found, asked_of in ((whole, given), (first, [replace(fact, target_true=None) for fact in given])):
        alone = [Tracer(model, SETTINGS).maps(fact)[0] for fact in asked_of]
        assert found.maps[0].high == pytest.approx(np.mean([one.high for one in alone]), rel=1e-12)
        np.testing.assert_allclose(
            found.maps[0].mean[5], np.mean([one.indirect_effect[-1] for one in alone], axis=0), rtol=1e-12
        )
    assert whole.maps[0].high < first.maps[0].high
    with pytest.raises(TraceError, match="was made with answer_tokens all, and now it is first"):
        run("whole.sqlite", answer_tokens="first", **several)
    # Answers of one token are the same either way.
    one, other = run("a.sqlite"), run("b.sqlite", answer_tokens="first")
    np.testing.assert_allclose(one.maps[0].mean, other.maps[0].mean, rtol=1e-12)


def test_a_preset_scores_the_first_token(facts: FactFile) -> None:
    preset = replace(SETTINGS, preset="rome", positions="all")
    assert asked(facts, preset)["answer_tokens"] == asked(facts, preset, "first")["answer_tokens"] == "first"
    assert asked(facts, SETTINGS)["answer_tokens"] == "all"
    with pytest.raises(TraceError, match="the preset rome scores an answer's first token: leave answer_tokens out"):
        asked(facts, preset, "all")


def test_interrupted_and_gone_on_with_is_bit_for_bit_the_same(run: Run, tmp_path: Path) -> None:
    for after in (0, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            run("broken.sqlite", watch=interrupted(after))
    told: list[tuple[int, int]] = []
    resumed = run("broken.sqlite", watch=lambda _: lambda done, total: told.append((done, total)))
    assert told == [(4, 5), (5, 5)]  # four were kept, and the facts were not asked again
    assert numbers(resumed) == numbers(run("whole.sqlite")) == numbers(run("whole.sqlite"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.sqlite", "whole.sqlite"]


def test_an_interruption_while_the_model_is_asked_leaves_nothing_half(run: Run) -> None:
    def watch(part: str) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(watch=watch)
    assert numbers(run()) == numbers(run("whole.sqlite"))


CHILD = """
import sys, time
from pathlib import Path
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import Settings
from rome_engine.trace.factfile import read_facts
from rome_engine.trace.over_facts import trace_facts

def watch(part):
    def tick(done, total):
        print(part, done, flush=True)
        if part == "tracing" and done == int(sys.argv[4]):
            time.sleep(float(sys.argv[5]))
    return tick

settings = Settings(
    kinds=("hidden", "mlp"), windows=(2,), corruptions=(1.0,), samples=2, positions="last-subject,last"
)
model = LanguageModel.load(sys.argv[1], dtype="float32")
trace_facts(model, read_facts(sys.argv[2]), settings, Path(sys.argv[3]), include_small=True, watch=watch)
"""


def killed(folder: Path, after: int, pause: float) -> None:
    """Run a process of its own, and kill it when it has traced so many facts: asleep, or at work on the next."""
    arguments = [folder / "model", folder / "facts.json", folder / "killed.sqlite", after, pause]
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.split() == ["tracing", str(after)]:
            if pause:
                with pytest.raises(InUseError, match=r"another process is using the run of trace-facts .*--run"):
                    RunStore(folder / "killed.sqlite", {})
            child.kill()
    assert child.wait() == -signal.SIGKILL


def test_a_killed_process_loses_nothing_that_was_finished_and_no_second_one_may_write(
    model: LanguageModel, facts: FactFile, tmp_path: Path
) -> None:
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    records = [fact.to_dict() for _, fact in facts.facts]
    (tmp_path / "facts.json").write_text(json.dumps(records), encoding="utf-8")
    killed(tmp_path, 2, 60)
    killed(tmp_path, 3, 0)
    loaded, read = LanguageModel.load(str(tmp_path / "model"), dtype="float32"), read_facts(tmp_path / "facts.json")
    told: list[int] = []

    def trace(path: str, **options: Any) -> Average:
        return trace_facts(loaded, read, SETTINGS, tmp_path / path, include_small=True, **options)

    resumed = trace("killed.sqlite", watch=lambda _: lambda done, total: told.append(done))
    assert told[0] in (3, 4) and told[-1] == 5
    assert numbers(resumed) == numbers(trace("whole.sqlite"))


def test_a_limit_takes_the_first_known_facts_and_may_be_raised(run: Run, model: LanguageModel) -> None:
    few = run(limit=2)
    assert (few.counts.known, few.counts.traced, few.counts.waiting) == (5, 2, 3)
    assert few.maps[0].peak_facts == tuple(fact.id for fact in known_facts(model, 2))
    whole = run("whole.sqlite")
    assert numbers(run()) == numbers(whole)
    assert numbers(run(limit=2)) == numbers(few) == numbers(run("whole.sqlite", limit=2))


def test_metric_and_threshold_choose_from_what_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    monkeypatch.setattr(Tracer, "maps", None)  # nothing is traced again
    assert run(metric="rank").maps[0].metric == "rank"
    with pytest.raises(TraceError, match="of all 5 traced facts the total effect"):
        run(threshold=1.5, include_small=False)


# Failures


def test_a_failing_fact_is_told_and_the_others_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = Tracer.maps

    def failing(self: Tracer, fact: Fact, *rest: Any) -> Any:
        if "Danielle" in fact.subject or "São" in fact.subject:
            raise RuntimeError("it broke\nin two lines") if "Danielle" in fact.subject else ValueError
        return maps(self, fact, *rest)

    monkeypatch.setattr(Tracer, "maps", failing)
    found = run()
    failed = [one for one in found.left if one.status == "failed"]
    assert failed and found.counts.failed == len(failed) and found.counts.traced == 5 - len(failed)
    assert {one.reason for one in failed} <= {"it broke in two lines", "ValueError"}
    assert found.maps[0].averaged == found.counts.traced
    monkeypatch.setattr(Tracer, "maps", maps)  # the cause is gone: failed facts are tried again
    assert numbers(run()) == numbers(run("whole.sqlite"))


def test_a_run_in_which_every_fact_fails_says_why(run: Run) -> None:
    with pytest.raises(TraceError, match=r"7 looked at: 5 failed.*; record 1: layer 99 cannot be severed"):
        run(settings=replace(SETTINGS, severed=("", "mlp@99")))


def test_no_known_fact_is_an_error_that_says_so(run: Run, facts: FactFile) -> None:
    wrong = replace(facts, facts=facts.facts[2:3])
    with pytest.raises(TraceError, match=r"2 looked at: 1 not answered right by the model, 1 malformed; record 3"):
        run(facts=wrong)


# What is refused


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"samples": 3}, "samples 2, and now it is 3"),
        ({"kinds": ("hidden",)}, r"kinds \[.hidden., .mlp.\], and now it is \[.hidden.\]"),
        ({"seed": 2}, "seed 1, and now it is 2"),
        ({"bos": "never"}, "bos auto, and now it is never"),
        ({"memory": 1 << 31}, "memory unset, and now it is 2147483648"),
    ],
)
def test_another_configuration_is_refused_by_its_name(
    run: Run, facts: FactFile, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    before = numbers(run())
    with pytest.raises(TraceError, match=f"run.sqlite was made with {said}: run with the same, or name another file"):
        run(settings=replace(SETTINGS, **changed))
    with pytest.raises(TraceError, match=said):
        check_run(tmp_path / "run.sqlite", asked(facts, replace(SETTINGS, **changed)))
    assert numbers(run()) == before


def test_other_facts_weights_tokens_and_types_are_refused(
    run: Run, model: LanguageModel, facts: FactFile, tmp_path: Path
) -> None:
    run()
    path = tmp_path / "run.sqlite"
    given = configuration(model, facts, SETTINGS)
    for name in ("facts", "weights", "tokenizer", "dtype", "device", "threads", "torch"):
        with pytest.raises(TraceError, match=f"was made with {name} .*, and now it is other"):
            RunStore(path, {**given, name: "other"})
    with pytest.raises(TraceError, match=f"run with OMP_NUM_THREADS={torch.get_num_threads()}, or name"):
        RunStore(path, {**given, "threads": 99})
    check_run(path, asked(facts, SETTINGS))
    check_run(tmp_path / "none.sqlite", asked(facts, SETTINGS))
    assert not (tmp_path / "none.sqlite").exists()


def test_a_second_writer_in_the_same_process_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    with RunStore(path, {"a": 1}), pytest.raises(InUseError, match="another process is using"):
        RunStore(path, {"a": 1})
    with RunStore(path, {"a": 1}) as store:
        assert not store.filtered


def test_files_that_are_no_run(tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, and long enough to be read as one" * 40)
    with pytest.raises(StorageError, match="no run of trace-facts"):
        RunStore(text, {})
    other = tmp_path / "other.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mine (x)")
    connection.commit()
    connection.close()
    before = other.read_bytes()
    with pytest.raises(StorageError, match="no run of trace-facts"):
        RunStore(other, {})
    assert other.read_bytes() == before
    with pytest.raises(StorageError, match=r"cannot use the run of trace-facts .*choose a folder"):
        RunStore(tmp_path / "none" / "run.sqlite", {})
    with RunStore(tmp_path / "old.sqlite", {}) as store:
        store.sqlite.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="another version of rome-engine"):
        RunStore(tmp_path / "old.sqlite", {})
