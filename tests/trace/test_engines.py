"""The two engines: equal for every family, kind and direction, exact shortcuts, and a model afterwards as before."""

from __future__ import annotations

import random
from typing import get_args

import numpy as np
import pytest
import torch

from rome_engine.errors import NotReplayableError, TraceError
from rome_engine.trace import CLASSIC, KINDS, wavefront
from rome_engine.trace.plan import Cell, Direction, Patch, Pin, Run
from tests import tiny
from tests.trace.examples import (
    END,
    ENGINES,
    MIDDLE,
    START,
    assert_same,
    baseline,
    measured,
    plan,
    scores,
    swapped,
)

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def kinds(family: str) -> list[str]:
    return [kind for kind in KINDS if kind != "mid" or not tiny.shared(family).architecture.parallel]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_fast_equals_reference_for_every_kind_and_metric(family: str) -> None:
    model = tiny.shared(family)
    for (text, subject), some in ((MIDDLE, kinds(family)), (START, CLASSIC), (END, CLASSIC)):
        runs = baseline(model, text, subject, samples=2)
        for kind in some:
            cells = plan(runs, kind).cells
            slow = measured("reference", runs, cells)
            assert np.ptp(slow[:, 0]) > 1e-3 * slow[:, 0].max()  # not flat: there is something to agree on
            assert_same(measured("fast", runs, cells), slow)


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox", "gemma2", "bloom", "opt"])
def test_fast_equals_reference_where_clean_states_are_corrupted(family: str) -> None:
    model = tiny.shared(family)
    for (text, subject), some in ((MIDDLE, kinds(family)), (START, CLASSIC)):
        runs = baseline(model, text, subject, samples=2)
        for kind in some:
            cells = plan(runs, kind, direction="corrupt").cells
            slow = measured("reference", runs, cells, "corrupt")
            assert np.ptp(slow[:, 0]) > 1e-3 * slow[:, 0].max()
            assert_same(measured("fast", runs, cells, "corrupt"), slow)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("family", ["llama", "phi", "olmo2", "gpt2"])
def test_another_subject_in_the_place_of_noise(family: str, direction: Direction) -> None:
    runs = swapped(tiny.shared(family), *MIDDLE)
    for kind in kinds(family):
        cells = plan(runs, kind, direction=direction).cells
        assert_same(measured("fast", runs, cells, direction), measured("reference", runs, cells, direction))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("family", ["llama", "neox", "gpt2", "gemma3", "mpt"])
def test_answers_of_several_tokens(family: str, direction: Direction) -> None:
    model = tiny.shared(family)
    for text, subject in (MIDDLE, END):
        runs = baseline(model, text, subject, samples=2, answer=(40, 99, 7))
        assert runs.tokens == len(runs.prompt.input_ids) + 2
        for kind in ("hidden", "mlp", "head"):
            cells = plan(runs, kind, direction=direction).cells
            assert_same(measured("fast", runs, cells, direction), measured("reference", runs, cells, direction))


@pytest.mark.parametrize("window", [1, 3, 10])
@pytest.mark.parametrize("kind", ["mlp", "attn"])
def test_windows_that_share_rows_are_still_exact(kind: str, window: int) -> None:
    runs = baseline(tiny.shared("llama"), *MIDDLE)
    assert_same(scores("fast", runs, kind, window), scores("reference", runs, kind, window))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("family", ["llama", "neox", "gpt2", "gemma2"])
def test_any_set_of_patches_is_one_plan(family: str, direction: Direction) -> None:
    """Restored and held states mixed at random, of every component."""
    model = tiny.shared(family)
    runs = baseline(model, *MIDDLE)
    draw = random.Random(0)
    components = ["hidden", "mlp", "attn", "head", *(["mid"] if "mid" in kinds(family) else [])]
    sources: tuple[Run, ...] = get_args(Run)

    def patch() -> Patch:
        component = draw.choice(components)
        layer = draw.randrange(-1 if component == "hidden" else 0, model.n_layers)
        head = draw.randrange(tiny.HEADS) if component == "head" else 0
        return Patch(layer, component, draw.randrange(runs.tokens), draw.choice(sources), head)

    cells = []
    for _ in range(80):
        drawn = [patch() for _ in range(draw.randint(1, 6))]
        # One value a state; the order in which they are made says nothing.
        unique = {(one.layer, one.component, one.position, one.head): one for one in drawn}
        both = {(one.layer, one.position) for one in unique.values() if one.component in ("attn", "head")}
        cells.append(
            Cell(0, 0, tuple(p for p in unique.values() if p.component != "mid" or (p.layer, p.position) not in both))
        )
    begin, end = runs.subject
    for source in sources:
        whole = tuple(Patch(1, "hidden", at, source) for at in range(begin, end))
        cells += [Cell(0, 0, whole), Cell(0, 0, whole[:-1]), Cell(0, 0, whole[1:])]
        cells.append(Cell(0, 0, tuple(Patch(1, "hidden", at, source) for at in range(begin, runs.tokens))))
    cells.append(Cell(0, 0, ()))
    assert_same(measured("fast", runs, tuple(cells), direction), measured("reference", runs, tuple(cells), direction))


PINS = {
    "mlp of the restored token": [Pin("mlp")],
    "attention of the restored token": [Pin("attn")],
    "some layers and tokens": [Pin("mlp", (1, 2), (7, 8, 9)), Pin("attn", (3,), None)],
    "a head": [Pin("head", None, None, 2), Pin("head", (2,), (9,), 0)],
    "all behind": [Pin("hidden", (2,), tuple(range(20)))],
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("pins", PINS.values(), ids=PINS)
@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_severed_graphs(family: str, pins: list[Pin], direction: Direction) -> None:
    runs = baseline(tiny.shared(family), *MIDDLE)
    pins = [
        Pin(pin.component, pin.layers, None if pin.positions is None else tuple(range(6, runs.tokens)), pin.head)
        for pin in pins
    ]
    for kind in ("hidden", "mlp", "attn"):
        cells = plan(runs, kind, direction=direction, pins=pins).cells
        slow = measured("reference", runs, cells, direction)
        assert_same(measured("fast", runs, cells, direction), slow)
        whole = measured("reference", runs, plan(runs, kind, direction=direction).cells, direction)
        assert np.abs(slow[:, 0] - whole[:, 0]).max() > 1e-3 * whole[:, 0].max()  # severing does something


def test_a_graph_severed_above_the_restored_state_shows_nothing_of_it() -> None:
    """All states of the next layer held at their corrupted values: nothing restored below can reach the answer."""
    model = tiny.shared("llama")
    runs = baseline(model, *MIDDLE)
    wall = [Pin("hidden", (2,), tuple(range(runs.tokens)))]
    for engine in ENGINES:
        table = measured(engine, runs, plan(runs, "hidden", pins=wall).cells)[:, 0].reshape(-1, model.n_layers)
        np.testing.assert_allclose(table[:, :2], float(runs.scores[1:, 0].mean()), rtol=1e-5)
        assert np.abs(table[:, 3] - float(runs.scores[1:, 0].mean())).max() > 1e-3


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_all_heads_together_are_the_attention(family: str, direction: Direction) -> None:
    """Also where fewer keys and values than queries are kept (Qwen2, Llama, Falcon and others here)."""
    model = tiny.shared(family)
    runs = baseline(model, *MIDDLE, samples=2)
    source: Run = "clean" if direction == "restore" else "corrupted"
    places = [(layer, token) for layer in range(model.n_layers) for token in range(runs.subject[0], runs.tokens, 3)]
    whole = tuple(Cell(t, at, (Patch(at, "attn", t, source),)) for at, t in places)
    heads = tuple(
        Cell(t, at, tuple(Patch(at, "head", t, source, head) for head in range(tiny.HEADS))) for at, t in places
    )
    assert_same(measured("fast", runs, heads, direction), measured("fast", runs, whole, direction))
    single = tuple(Cell(t, at, (Patch(at, "head", t, source, 0),)) for at, t in places)
    assert np.abs(measured("fast", runs, single, direction) - measured("fast", runs, whole, direction))[:, 0].max() > 0


def test_the_residual_before_a_block_is_what_the_block_below_gave() -> None:
    runs = baseline(tiny.shared("qwen3"), *MIDDLE)
    before, after = scores("fast", runs, "pre"), scores("fast", runs, "hidden")
    np.testing.assert_allclose(before[:, 1:], after[:, :-1], rtol=1e-6)
    embedded = Cell(0, 0, tuple(Patch(-1, "hidden", at) for at in range(*runs.subject)))
    assert measured("fast", runs, (embedded,))[0, 0] == pytest.approx(float(runs.scores[0, 0]), rel=1e-5)


LITTLE = 100_000


@pytest.mark.parametrize("memory", [LITTLE, 1 << 22, None])
def test_the_memory_changes_nothing(memory: int | None) -> None:
    model = tiny.shared("qwen2")
    runs = baseline(model, *MIDDLE)
    cells = plan(runs, "mlp", 3).cells
    seen: list[int] = []
    found = wavefront.run(model, cells, runs, "restore", lambda done, _of: seen.append(done), memory)
    assert_same(found.mean(1), measured("reference", runs, cells))
    # Little memory: more and smaller parts, each of which walks all layers.
    assert (len(seen) > model.n_layers + 1) == (memory == LITTLE)


def test_memory_that_holds_no_cell_is_refused() -> None:
    runs = baseline(tiny.shared("qwen2"), *MIDDLE)
    with pytest.raises(TraceError, match="allow at least"):
        wavefront.run(runs.model, plan(runs, "mlp", 3).cells, runs, "restore", None, 1000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_shortcuts_hold_in_the_reference(kind: str, direction: Direction) -> None:
    model = tiny.shared("llama")
    runs = baseline(model, *MIDDLE)
    table = scores("reference", runs, kind, window=1, direction=direction)
    begin, last = runs.subject[0], runs.tokens - 1
    clean, corrupted = float(runs.scores[0, 0]), float(runs.scores[1:, 0].mean())
    untouched, other = (corrupted, clean) if direction == "restore" else (clean, corrupted)
    np.testing.assert_allclose(table[:begin], untouched, rtol=1e-5)
    if kind != "pre":
        np.testing.assert_allclose(table[:last, -1], untouched, rtol=1e-5)
    if kind == "hidden":
        assert table[last, -1] == pytest.approx(other, rel=1e-5)


def test_restoring_the_whole_subject_at_once_brings_everything_back() -> None:
    runs = baseline(tiny.shared("llama"), *MIDDLE)
    high, low = float(runs.scores[0, 0]), float(runs.scores[1:, 0].mean())
    assert abs(high - low) > 1e-3
    cell = Cell(0, 0, tuple(Patch(0, "hidden", at) for at in range(*runs.subject)))
    # Later tokens still saw the corrupted subject in block 0, so only layer 0's attention differs from the clean run.
    everything = Cell(0, 0, tuple(Patch(0, "hidden", at) for at in range(runs.subject[0], runs.tokens)))
    found = measured("fast", runs, (cell, everything))[:, 0]
    assert found[1] == pytest.approx(high, rel=1e-5)
    assert found[0] != pytest.approx(low, rel=1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_model_is_as_before_however_a_trace_ends(engine: str) -> None:
    model = tiny.language_model("gemma3")
    weights = model.weight_hash()
    runs = baseline(model, *START)

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    cells = (*plan(runs, "attn").cells, *plan(runs, "mid").cells, *plan(runs, "head").cells)
    with pytest.raises(KeyboardInterrupt):
        ENGINES[engine](model, cells, runs, "restore", interrupt)
    ENGINES[engine](model, cells, runs)
    assert model.weight_hash() == weights
    for module in model.module.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert "forward" not in vars(module)


def test_progress_counts_every_cell() -> None:
    runs = baseline(tiny.shared("opt"), *MIDDLE)
    cells = plan(runs, "hidden").cells
    for engine in ENGINES.values():
        seen: list[tuple[int, int]] = []
        engine(runs.model, cells, runs, "restore", lambda done, total, seen=seen: seen.append((done, total)))
        assert seen == sorted(seen) and seen[-1] == (len(cells), len(cells))


def test_a_replay_that_is_not_the_run_is_noticed() -> None:
    model = tiny.language_model("llama")
    runs = baseline(model, *MIDDLE)
    model.weight(0).mul_(1.01)  # the baseline is now another model's
    with pytest.raises(NotReplayableError, match="differs"):
        wavefront.run(model, plan(runs, "mlp").cells, runs)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_patching_a_run_with_its_own_values_changes_nothing(family: str, direction: Direction) -> None:
    runs = baseline(tiny.shared(family), *MIDDLE, samples=2, corruption="1e-30")
    for kind in ("hidden", "mlp", "attn", "head"):
        for engine in ENGINES:
            found = scores(engine, runs, kind, direction=direction)
            np.testing.assert_allclose(found, float(runs.scores[0, 0]), rtol=1e-5)


# Half precision: rows that go through in another batch are rounded otherwise. Relative to a metric's largest value.
TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 1e-1}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["hidden", "mlp", "attn", "head", "mid"])
def test_other_types_agree_within_their_rounding(dtype: torch.dtype, kind: str) -> None:
    runs = baseline(tiny.language_model("llama", dtype=dtype), *MIDDLE)
    cells = plan(runs, kind).cells
    slow, fast = (measured(engine, runs, cells)[:, :4] for engine in ("reference", "fast"))  # ranks jump
    assert_same(fast, slow, TOLERANCE[dtype])
