"""Screens: gradients against finite differences and the engine, exact numbers where it says exact, what was missed."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from rome_engine.errors import TraceError
from rome_engine.model.heads import attention_projection, head_slice
from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.hooks import first_tensor, with_first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import screen as screening
from rome_engine.trace import wavefront
from rome_engine.trace.baseline import Baseline
from rome_engine.trace.gradients import SMOOTH, first_order
from rome_engine.trace.metrics import METRICS
from rome_engine.trace.plan import Cell, Direction, base_run, plan_map, source_run
from rome_engine.trace.screen import choose, screen
from rome_engine.trace.screened import Missed, Screen
from rome_engine.trace.settings import Settings
from rome_engine.trace.tracer import ENGINES
from tests import tiny
from tests.trace.examples import END, MIDDLE, START, baseline, swapped

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
TEXT, SUBJECT = MIDDLE
SETTINGS = Settings(
    kinds=("hidden", "mlp", "attn", "head", "pre"), windows=(1, 3), corruptions=("0.5",), samples=2, seed=3
)


def screened(model: LanguageModel, **options: Any) -> Screen:
    return screen(model, TEXT, SUBJECT, **{"settings": SETTINGS, **options})


# Gradients


def slope(runs: Baseline, kind: str, layer: int, position: int, direction: Direction, metric: str) -> float:
    """The metric's central difference where a state is moved a little towards the other run's, by hooks alone."""
    model = runs.model
    # Many norms compute in float32, whatever the model does; OPT's do not, and its ReLU has kinks.
    step = 1e-6 if model.name == "opt" else 3e-3
    own, other = runs.rows(base_run(direction)), runs.rows(source_run(direction))
    component, head = (kind[:4], int(kind[4:])) if kind.startswith("head") else (kind, None)
    states = runs.states[component][layer]
    towards = (states[other, position] - states[own, position]).expand(runs.samples, -1)
    if head is not None:
        mask = torch.zeros_like(towards)
        mask[:, head_slice(model, head)] = 1
        towards = towards * mask

    def moved(size: float) -> float:
        def edit(value: Any, _layer: str | None) -> Any:
            tensor = first_tensor(value)
            shaped = tensor.clone().reshape(runs.samples, runs.tokens, -1)
            shaped[:, position] += size * towards
            return with_first_tensor(value, shaped.reshape(tensor.shape))

        given = runs.embedded[own].expand(runs.samples, -1, -1)
        with torch.no_grad(), ExitStack() as stack:
            stack.enter_context(Hook(model.blocks[0], edit_input=lambda *_: given.clone()))
            if head is not None:
                stack.enter_context(Hook(attention_projection(model, layer), edit_input=edit))
            else:
                stack.enter_context(Hook(model.output(kind, layer), edit_output=edit))
            ids = runs.ids[own].expand(runs.samples, -1)
            logits = model.module(input_ids=ids, use_cache=False).logits[:, runs.first_scored :]
        return float(scored(logits.double(), runs, metric).mean())

    return (moved(step) - moved(-step)) / (2 * step)


def scored(logits: Tensor, runs: Baseline, metric: str) -> Tensor:
    """The definitions of the metrics, in float64."""
    answer = torch.tensor(runs.question.answer)[:, None]
    if metric == "logit_difference":
        return logits[:, 0, runs.question.answer[0]] - logits[:, 0, runs.question.foil]
    total = torch.stack([row.log_softmax(-1).gather(1, answer).sum() for row in logits])
    return total if metric == "log_probability" else total.exp()


def compare(runs: Baseline, metric: str, direction: Direction, *layers: int) -> None:
    """Every kind at some layers, at the last subject token and the last one."""
    found = first_order(runs.model, runs, metric, direction)
    for kind in ("hidden", "mlp", "attn", "head0", f"head{tiny.HEADS - 1}"):
        table = found["head"][int(kind[4:])] if kind.startswith("head") else found[kind]
        scale = float(table.abs().max())
        assert scale > 0
        for layer in layers:
            for position in (runs.subject[1] - 1, len(runs.prompt.input_ids) - 1):
                exact = slope(runs, kind, layer, position, direction, metric)
                assert float(table[position, layer]) == pytest.approx(exact, rel=1e-2, abs=3e-3 * scale), kind


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_approximate_effects_are_slopes_of_the_metric(family: str) -> None:
    compare(baseline(doubled(family), *MIDDLE, samples=2, corruption="0.5"), "log_probability", "restore", 0, 2)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("metric", SMOOTH)
@pytest.mark.parametrize("family", ["llama", "opt", "gemma2"])
def test_slopes_of_every_metric_in_both_directions(family: str, metric: str, direction: Direction) -> None:
    compare(baseline(doubled(family), *START, samples=2, answer=(40, 99)), metric, direction, 1)
    compare(swapped(doubled(family), *MIDDLE), metric, direction, 2)


_DOUBLED: dict[str, LanguageModel] = {}


def doubled(family: str) -> LanguageModel:
    """In float64, where a difference quotient is exact enough."""
    if family not in _DOUBLED:
        _DOUBLED[family] = tiny.language_model(family, dtype=torch.float64)
    return _DOUBLED[family]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_heads_add_up_to_their_attention_and_a_block_takes_in_what_the_last_gave(family: str) -> None:
    model = tiny.shared(family)
    runs = baseline(model, *MIDDLE, samples=2)
    for direction in DIRECTIONS:
        found = first_order(model, runs, direction=direction)
        if model.architecture.attention_output == model.architecture.attention_projection:  # no norm between the two
            scale = float(found["attn"].abs().max())
            torch.testing.assert_close(found["head"].sum(0), found["attn"], rtol=1e-4, atol=1e-5 * scale)
        assert found["head"].abs().amax((1, 2)).min() > 0
        torch.testing.assert_close(found["pre"][:, 1:], found["hidden"][:, :-1], rtol=0, atol=0)


def test_the_last_state_of_all_is_scored_by_the_unembedding_alone() -> None:
    """No other token reaches the answer from the top, and nothing before the subject differs."""
    runs = baseline(tiny.shared("llama"), *MIDDLE)
    found = first_order(runs.model, runs)
    assert not found["hidden"][:-1, -1].any() and found["hidden"][-1, -1] != 0
    largest = float(found["hidden"].abs().max())
    assert float(found["hidden"][: runs.subject[0]].abs().max()) < 1e-4 * largest


def test_without_heads_in_the_baseline_there_are_none() -> None:
    runs = baseline(tiny.shared("llama"), *END, heads=False)
    assert set(first_order(runs.model, runs)) == {"hidden", "mlp", "attn", "pre"}


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "gemma3", "opt"])
def test_for_small_noise_approximate_and_exact_effects_agree(family: str) -> None:
    near, far = (
        errors(screened(tiny.shared(family), settings=replace(SETTINGS, corruptions=(level,)), top=40, random=0))
        for level in ("1e-3", "1.0")
    )
    assert near[1].max() < 0.03
    assert far[1].max() > 0.1  # what large noise makes of it: the line above could fail
    assert near[3].max() > 0.1  # and windows, where what passes from layer to layer is counted twice


def errors(found: Screen) -> dict[int, np.ndarray]:
    """By window: relative to the exact effect, of the cells that matter."""
    rows = [row for row in found.rows() if row["chosen"] and abs(row["exact"]) >= found.missed.threshold]
    return {
        window: np.array([abs(row["approximate"] / row["exact"] - 1) for row in rows if row["window"] == window])
        for window in (1, 3)
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    half = tiny.language_model("llama", dtype=dtype)
    found, expected = (screened(model, top=5, random=5) for model in (half, tiny.shared("llama")))
    table, wanted = found.maps[0].approximate, expected.maps[0].approximate
    assert np.abs(table - wanted).max() < 0.2 * np.abs(wanted).max()


# Verification


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("metric", SMOOTH)
def test_verified_cells_have_the_engines_numbers(
    metric: str, direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.shared("qwen2")
    calls: list[tuple[list[Cell], Baseline, np.ndarray]] = []

    def run(model: LanguageModel, cells: Any, runs: Baseline, *others: Any) -> np.ndarray:
        calls.append((list(cells), runs, wavefront.run(model, cells, runs, *others)))
        return calls[-1][2]

    monkeypatch.setitem(ENGINES, "fast", run)
    settings = replace(SETTINGS, direction=direction)
    found = screened(model, settings=settings, metric=metric, foil=" Rome", top=12, random=9)

    ((cells, runs, scores),) = calls  # all in one call
    assert len(cells) == 21
    column = METRICS.index(metric)
    high, low = float(runs.scores[0, column]), float(runs.scores[1:, column].mean())
    assert (found.high, found.low) == (high, low)
    moved = scores[:, :, column].mean(1)
    exact = sorted(moved - low if direction == "restore" else high - moved)
    rows = [row for row in found.rows() if row["chosen"]]
    assert sorted(row["exact"] for row in rows) == pytest.approx(exact, rel=1e-12, abs=1e-15)
    for row in rows:
        plan = plan_map(
            row["kind"], [row["token"]], model.n_layers, row["window"], head=row["head"], direction=direction
        )
        alone = wavefront.run(model, [plan.cells[row["layer"]]], runs, direction)[0, :, column].mean()
        effect = alone - low if direction == "restore" else high - alone
        assert row["exact"] == pytest.approx(effect, rel=1e-4, abs=1e-5 * max(map(abs, exact)))
        assert row["effect"] == row["exact"] and row["effect_is"] == "exact"


def test_what_is_not_verified_is_marked_approximate() -> None:
    found = screened(tiny.shared("llama"), top=7, random=4)
    rows = found.rows()
    counts = {chosen: sum(row["chosen"] == chosen for row in rows) for chosen in ("top", "random", None)}
    layers, tokens = tiny.LAYERS, len(found.tokens)
    assert found.cells == len(rows) == layers * tokens * (1 + 2 + 2 + tiny.HEADS + 1)
    assert counts == {"top": 7, "random": 4, None: len(rows) - 11}
    for row in rows:
        assert (row["exact"] is None) == (row["chosen"] is None) == (row["effect_is"] == "approximate")
        assert row["effect"] == (row["approximate"] if row["exact"] is None else row["exact"])
    top = min(abs(row["approximate"]) for row in rows if row["chosen"] == "top")
    assert all(abs(row["approximate"]) <= top for row in rows if row["chosen"] != "top")
    assert {one.kind: one.approximate.ndim for one in found.maps} == {
        **dict.fromkeys(("hidden", "mlp", "attn", "pre"), 2),
        "head": 3,
    }


def test_a_window_is_the_sum_of_its_layers() -> None:
    found = {(one.kind, one.window): one.approximate for one in screened(tiny.shared("gpt2"), top=1, random=0).maps}
    for kind in ("mlp", "attn"):
        one, three = found[kind, 1], found[kind, 3]
        np.testing.assert_allclose(three[:, 1], one[:, :3].sum(1))
        np.testing.assert_allclose(three[:, -1], one[:, -2:].sum(1))


def test_chosen_positions_leave_the_others_out() -> None:
    found = screened(tiny.shared("llama"), settings=replace(SETTINGS, positions="last-subject,last"), top=3)
    asked = {found.subject_range[1] - 1, len(found.tokens) - 1}
    assert {row["token"] for row in found.rows()} == asked
    assert np.isnan(found.maps[0].approximate).sum() == (len(found.tokens) - 2) * tiny.LAYERS


def test_the_random_cells_are_none_of_the_top_ones_and_drawn_by_the_seed() -> None:
    approximate = np.random.default_rng(0).normal(size=200)
    top, drawn = choose(approximate, 20, 30, 5)
    again, other = choose(approximate, 20, 30, 5)[1], choose(approximate, 20, 30, 6)[1]
    assert len({*top, *drawn}) == 50
    assert np.abs(approximate[top]).min() >= np.abs(np.delete(approximate, top)).max()
    assert drawn.tolist() == again.tolist() != other.tolist()
    one, same = (screened(tiny.shared("llama"), top=5, random=20).to_dict()["maps"] for _ in range(2))
    assert json.dumps(one) == json.dumps(same)


# What was missed


def test_where_all_cells_are_verified_nothing_is_missed() -> None:
    found = screened(tiny.shared("llama"), top=10**6, random=50)
    assert found.cells == found.missed.top and found.missed.rest == found.missed.sampled == 0
    assert (found.missed.estimate, found.missed.low, found.missed.high) == (0.0, 0.0, 0.0)
    assert found.missed.top_matter > 0
    assert found.agreement["random"].pearson is None  # and no correlation of nothing


def test_where_the_whole_rest_is_sampled_the_share_is_known() -> None:
    found = screened(tiny.shared("llama"), top=4, random=10**6)
    effects = [abs(row["exact"]) for row in found.rows()]
    matter = sum(effect >= 0.25 * max(effects) for effect in effects)
    assert found.missed.estimate == (matter - found.missed.top_matter) / matter > 0
    assert found.missed.low == found.missed.high == found.missed.estimate


def test_the_share_missed_and_its_interval() -> None:
    top, sampled = np.array([1.0, -0.5, 0.1]), np.array([0.25, 0.2, -0.1, 0.0])
    found = Missed.of(top, sampled, rest=400, share=0.25)
    assert (found.threshold, found.top_matter, found.sampled_matter) == (0.25, 2, 1)
    assert found.estimate == pytest.approx(100 / 102)  # a quarter of 400, of those and the 2 known
    bounds = binomtest(1, 4).proportion_ci(0.95, method="exact")
    assert found.low == pytest.approx(400 * bounds.low / (400 * bounds.low + 2))
    assert found.high == pytest.approx(400 * bounds.high / (400 * bounds.high + 2))
    few = Missed.of(top, sampled, rest=5, share=0.25)
    assert (few.low, few.high) == (1 / 3, 2 / 4)  # one was seen to matter, and three not to


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    effects = np.where(np.arange(300) < 36, 0.5, 0.0)  # the rest; 4 more matter among the top cells
    top, truth = np.full(4, 0.5), 36 / 40
    intervals = [Missed.of(top, random.choice(effects, 25, replace=False), 300, 0.25) for _ in range(400)]
    held = [one.low <= truth <= one.high for one in intervals if one.low is not None and one.high is not None]
    assert len(held) == 400 and np.mean(held) >= 0.95


@pytest.mark.parametrize(
    ("top", "sampled", "rest", "expected"),
    [
        ([1.0], [], 5, (None, 0.0, 5 / 6)),  # nothing sampled: nothing known
        ([0.0], [0.0], 5, (None, None, None)),  # nothing matters
        ([], [1.0], 1, (1.0, 1.0, 1.0)),  # no top cell
        ([1.0], [], 0, (0.0, 0.0, 0.0)),
    ],
)
def test_nothing_is_divided_by_nothing(
    top: list[float], sampled: list[float], rest: int, expected: tuple[float | None, ...]
) -> None:
    found = Missed.of(np.array(top), np.array(sampled), rest, 0.25)
    assert (found.estimate, found.low, found.high) == expected


def test_a_screen_without_its_gradients_misses_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells are verified, so the share is exact: of cells chosen blindly far more is missed."""
    model = tiny.shared("llama")
    honest = screened(model, top=40, random=10**6)

    def shuffled(*arguments: Any) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(0)
        found = first_order(*arguments)
        return {
            kind: table.flatten()[torch.randperm(table.numel(), generator=random)].view(table.shape)
            for kind, table in found.items()
        }

    monkeypatch.setattr(screening, "first_order", shuffled)
    blind = screened(model, top=40, random=10**6)
    assert honest.missed.estimate is not None and blind.missed.estimate is not None
    assert blind.missed.estimate > honest.missed.estimate + 0.2
    honest_rank, blind_rank = honest.agreement["random"].spearman, blind.agreement["random"].spearman
    assert honest_rank is not None and blind_rank is not None
    assert honest_rank > 0.5 > abs(blind_rank) + 0.3


# Limits


def test_the_model_is_as_before_however_a_screen_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("gemma3")
    weights = model.weight_hash()

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screened(model, progress=interrupt)
    runs = baseline(model, *MIDDLE)
    for broken in ("measure", "first_tensor"):  # at the end of the forward pass, and within it
        with monkeypatch.context() as patch:
            patch.setattr("rome_engine.trace.gradients." + broken, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                first_order(model, runs)
    with monkeypatch.context() as patch:  # and within the backward pass
        patch.setattr("rome_engine.trace.gradients._Pass._keep", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            first_order(model, runs)
    screened(model)
    assert model.weight_hash() == weights
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.module.parameters())
    assert not runs.embedded.requires_grad and torch.is_grad_enabled()
    for module in model.module.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._backward_hooks
        assert "forward" not in vars(module)


def test_gradients_are_taken_where_the_caller_has_switched_them_off() -> None:
    runs = baseline(tiny.shared("llama"), *MIDDLE)
    expected = first_order(runs.model, runs)["hidden"]
    with torch.no_grad():
        torch.testing.assert_close(first_order(runs.model, runs)["hidden"], expected, rtol=0, atol=0)
        assert not torch.is_grad_enabled()


def test_a_forward_that_cuts_gradients_off_is_refused() -> None:
    runs = baseline(tiny.shared("llama"), *MIDDLE)
    with (
        Hook(runs.model.blocks[1], edit_output=lambda output, _: first_tensor(output).detach()),
        pytest.raises(TraceError, match=r"no gradient reaches \w+ of layer"),
    ):
        first_order(runs.model, runs)


def test_gradients_of_another_run_are_refused() -> None:
    model = tiny.language_model("llama")
    runs = baseline(model, *MIDDLE)
    model.weight(1).mul_(1.5)
    with pytest.raises(TraceError, match="other scores than the run it repeats"):
        first_order(model, runs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": replace(SETTINGS, kinds=("hidden", "mid"))}, "kind mid cannot be screened"),
        ({"settings": replace(SETTINGS, severed=("", "mlp"))}, "severed graph cannot be screened"),
        ({"settings": Settings(preset="rome-severed")}, "severed graph cannot be screened"),
        ({"settings": replace(SETTINGS, corruptions=("1.0", "2.0"))}, "one corruption"),
        ({"metric": "kl"}, "no gradient of the metric 'kl'"),
        ({"metric": "logit_difference"}, "name the wrong one as foil"),
        ({"metric": "logit_difference", "answer": "Paris", "foil": "Paris"}, "begin with the same token"),
        ({"top": 0, "random": 0}, "at least one cell"),
        ({"top": -1}, "at least one cell"),
        ({"share": 0.0}, "above 0"),
    ],
)
def test_what_cannot_be_screened_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TraceError, match=said) as caught:
        screened(tiny.shared("llama"), **options)
    assert "\n" not in str(caught.value)


def test_the_reference_engine_verifies_where_it_is_asked_to() -> None:
    model = tiny.shared("falcon")
    fast, slow = (
        screened(model, settings=replace(SETTINGS, engine=engine), top=6, random=6) for engine in ("fast", "reference")
    )
    assert (fast.engine, slow.engine) == ("fast", "reference")
    for one, other in zip(fast.maps, slow.maps, strict=True):
        np.testing.assert_allclose(one.exact, other.exact, rtol=1e-3, atol=1e-4)


def test_a_screen_says_all_about_itself() -> None:
    model = tiny.shared("llama")
    found = screened(model, top=5, random=5, foil=" Rome")
    record = json.loads(json.dumps(found.to_dict()))
    assert record["cells"] == len(found.rows())
    assert record["provenance"]["weights"] == model.weight_hash()
    assert (record["provenance"]["top"], record["provenance"]["random"], record["provenance"]["share"]) == (5, 5, 0.25)
    assert set(record["agreement"]) == {"top", "random"}
    assert {"estimate", "low", "high", "threshold"} <= set(record["missed"])
    assert record["maps"][0]["chosen"][0][0] in ("", "top", "random")
    assert record["seconds"]["screen"] > 0 and record["seconds"]["verification"] > 0
