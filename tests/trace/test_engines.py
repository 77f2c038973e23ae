"""The two engines: equal for every family and kind, exact shortcuts, and a model that is afterwards as before."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rome_engine.errors import NotReplayableError
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import KINDS, reference, wavefront
from rome_engine.trace.baseline import Baseline, run_baseline
from rome_engine.trace.corrupt import gaussian
from rome_engine.trace.plan import Cell, Patch, plan_map
from tests import tiny

MIDDLE = ("You can find the Colosseum in Rome. The Louvre is in", "The Louvre")
START = ("The Eiffel Tower is located in", "The Eiffel Tower")
END = ("To visit Paris, find the Louvre", "the Louvre")
RELATIVE = 1e-5


def baseline(model: LanguageModel, text: str, subject: str, samples: int = 3) -> Baseline:
    prompt = model.tokenize(text, subject)
    assert prompt.subject_range is not None
    begin, end = prompt.subject_range
    width: Any = model.embedding
    return run_baseline(model, prompt, gaussian(samples, end - begin, width.weight.shape[1], 1.0, seed=1), 1.0)


def scores(engine: Any, model: LanguageModel, runs: Baseline, kind: str, window: int = 2) -> NDArray[np.float64]:
    plan = plan_map(kind, runs.tokens, model.n_layers, window)
    table: NDArray[np.float64] = engine.run(model, plan.cells, runs).reshape(plan.tokens, plan.layers)
    return table


def assert_same(fast: NDArray[np.float64], slow: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(fast, slow, rtol=RELATIVE, atol=RELATIVE * float(slow.max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_fast_equals_reference(family: str, kind: str) -> None:
    model = tiny.shared(family)
    for text, subject in (MIDDLE, START, END):
        runs = baseline(model, text, subject)
        slow = scores(reference, model, runs, kind)
        assert np.ptp(slow) > 1e-3 * slow.max()  # the map is not flat: there is something to agree on
        assert_same(scores(wavefront, model, runs, kind), slow)


@pytest.mark.parametrize("window", [1, 3, 10])
@pytest.mark.parametrize("kind", ["mlp", "attn"])
def test_windows_that_share_rows_are_still_exact(kind: str, window: int) -> None:
    model = tiny.shared("llama")
    runs = baseline(model, *MIDDLE)
    assert_same(scores(wavefront, model, runs, kind, window), scores(reference, model, runs, kind, window))


@pytest.mark.parametrize("family", ["llama", "neox", "gpt2", "gemma2"])
def test_any_set_of_patches_is_one_plan(family: str) -> None:
    model = tiny.shared(family)
    runs = baseline(model, *MIDDLE)
    draw = random.Random(0)
    cells = [
        Cell(
            0,
            0,
            tuple(
                {
                    Patch(draw.randrange(model.n_layers), draw.choice(KINDS), draw.randrange(runs.tokens))
                    for _ in range(draw.randint(1, 5))
                }
            ),
        )
        for _ in range(60)
    ]
    begin, end = runs.subject
    whole = tuple(Patch(1, "hidden", at) for at in range(begin, end))
    cells += [Cell(0, 0, whole), Cell(0, 0, whole[:-1]), Cell(0, 0, whole[1:]), Cell(0, 0, ())]
    assert_same(wavefront.run(model, cells, runs), reference.run(model, cells, runs))


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_the_chunk_size_changes_nothing(chunk: int) -> None:
    model = tiny.shared("qwen2")
    runs = baseline(model, *MIDDLE)
    plan = plan_map("mlp", runs.tokens, model.n_layers, 3)
    assert_same(wavefront.run(model, plan.cells, runs, chunk_tokens=chunk), wavefront.run(model, plan.cells, runs))


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortcuts_hold_in_the_reference(kind: str) -> None:
    model = tiny.shared("phi3")
    runs = baseline(model, *MIDDLE)
    table = scores(reference, model, runs, kind, window=1)
    begin, last = runs.subject[0], runs.tokens - 1
    np.testing.assert_allclose(table[:begin], runs.low, rtol=1e-5)
    np.testing.assert_allclose(table[:last, -1], runs.low, rtol=1e-5)
    if kind == "hidden":
        assert table[last, -1] == pytest.approx(runs.high, rel=1e-5)


def test_restoring_the_whole_subject_at_once_brings_everything_back() -> None:
    model = tiny.shared("llama")
    runs = baseline(model, *MIDDLE)
    assert abs(runs.high - runs.low) > 1e-3
    cell = Cell(0, 0, tuple(Patch(0, "hidden", at) for at in range(*runs.subject)))
    # Later tokens still saw the corrupted subject in block 0, so only layer 0's attention differs from the clean run.
    everything = Cell(0, 0, tuple(Patch(0, "hidden", at) for at in range(runs.subject[0], runs.tokens)))
    found = wavefront.run(model, [cell, everything], runs)
    assert found[1] == pytest.approx(runs.high, rel=1e-5)
    assert found[0] != pytest.approx(runs.low, rel=1e-3)


@pytest.mark.parametrize("engine", [wavefront, reference])
def test_the_model_is_as_before_however_a_trace_ends(engine: Any) -> None:
    model = tiny.language_model("gemma3")
    weights = model.weight_hash()
    runs = baseline(model, *START)

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    plan = plan_map("attn", runs.tokens, model.n_layers, 2)
    with pytest.raises(KeyboardInterrupt):
        engine.run(model, plan.cells, runs, interrupt)
    engine.run(model, plan.cells, runs)
    assert model.weight_hash() == weights
    for module in model.module.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "forward" not in vars(module)


def test_progress_counts_every_cell() -> None:
    model = tiny.shared("opt")
    runs = baseline(model, *MIDDLE)
    plan = plan_map("hidden", runs.tokens, model.n_layers)
    for engine in (wavefront, reference):
        seen: list[tuple[int, int]] = []
        engine.run(model, plan.cells, runs, lambda done, total, seen=seen: seen.append((done, total)))
        assert seen == sorted(seen) and seen[-1] == (len(plan.cells), len(plan.cells))


def test_a_replay_that_is_not_the_run_is_noticed() -> None:
    model = tiny.language_model("llama")
    runs = baseline(model, *MIDDLE)
    plan = plan_map("mlp", runs.tokens, model.n_layers, 2)
    model.weight(0).mul_(1.01)  # the baseline is now another model's
    with pytest.raises(NotReplayableError, match="differs"):
        wavefront.run(model, plan.cells, runs)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_patching_a_run_with_its_own_values_changes_nothing(family: str) -> None:
    model = tiny.shared(family)
    prompt = model.tokenize(*MIDDLE)
    begin, end = prompt.subject_range or (0, 0)
    width: Any = model.embedding
    runs = run_baseline(model, prompt, gaussian(2, end - begin, width.weight.shape[1], 0.0, seed=1), 0.0)
    for kind in KINDS:
        for engine in (wavefront, reference):
            np.testing.assert_allclose(scores(engine, model, runs, kind), runs.high, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_types_agree_within_their_rounding(dtype: torch.dtype) -> None:
    model = tiny.language_model("llama", dtype=dtype)
    runs = baseline(model, *MIDDLE)
    tolerance = {torch.float16: 2e-2, torch.bfloat16: 1e-1}[dtype]
    slow, fast = (scores(engine, model, runs, "mlp") for engine in (reference, wavefront))
    np.testing.assert_allclose(fast, slow, rtol=tolerance, atol=tolerance * float(slow.max()))
