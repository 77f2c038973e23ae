"""Agreement of corruptions: rank correlation against ranks counted by hand, and its limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rome_engine.trace.agreement import agreement, average_agreement
from rome_engine.trace.average_map import AverageMap
from rome_engine.trace.result import Trace


def made(scores: Any, **changes: Any) -> Trace:
    """A trace of these scores, whose subject is token 1."""
    scores = np.asarray(scores, dtype=np.float64)
    fields: dict[str, Any] = {
        "model": "m", "prompt": "a b c", "subject": "b", "tokens": ("a", "b", "c"), "subject_range": (1, 2),
        "answer": "d", "high": 0.9, "low": 0.1, "kind": "hidden", "window": 1, "noise_sigma": 0.1, "samples": 2,
        "seed": 1, "scores": scores, "seconds": 0.1, "engine": "fast", "corruption": "gaussian:3s",
    }  # fmt: skip
    return Trace(**{**fields, **changes})


def ranks(values: list[float]) -> list[float]:
    """Average ranks, counted one by one."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def spearman(left: list[float], right: list[float]) -> float:
    return float(np.corrcoef(ranks(left), ranks(right))[0, 1])


def test_it_is_the_correlation_of_ranks_from_the_subject_on() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(10):
        # Few different values, so that ranks tie; the first row would change the result.
        left, right = numbers.integers(0, 6, (3, 5)).astype(float), numbers.integers(0, 6, (3, 5)).astype(float)
        left[0], right[0] = np.arange(5) * 100, -np.arange(5) * 100
        (row,) = agreement([made(left), made(right, corruption="swap")])
        assert row["cells"] == 10
        assert row["correlation"] == pytest.approx(spearman(left[1:].ravel().tolist(), right[1:].ravel().tolist()))
        assert (row["first"], row["second"], row["note"]) == ("gaussian:3s", "swap", None)


def test_like_orders_agree_and_opposite_ones_do_not() -> None:
    scores = np.random.default_rng(1).random((3, 5))
    same, opposite = made(np.exp(scores), corruption="swap"), made(-scores, corruption="swap")
    assert agreement([made(scores), same])[0]["correlation"] == pytest.approx(1)
    assert agreement([made(scores), opposite])[0]["correlation"] == pytest.approx(-1)


def test_a_constant_map_has_no_order_and_it_is_said() -> None:
    (row,) = agreement([made(np.random.default_rng(2).random((3, 5))), made(np.full((3, 5), 0.1), corruption="swap")])
    assert row["correlation"] is None and "equal" in row["note"]


def test_only_cells_that_both_maps_have_count() -> None:
    left, right = np.random.default_rng(3).random((2, 3, 5))
    left[1, 0], right[2, 4] = np.nan, np.inf
    (row,) = agreement([made(left), made(right, corruption="swap")])
    assert row["cells"] == 8
    keep = [place for place in range(5, 15) if place not in (5, 14)]
    assert row["correlation"] == pytest.approx(spearman(left.ravel()[keep].tolist(), right.ravel()[keep].tolist()))
    left[1:, :4] = np.nan
    (row,) = agreement([made(left), made(right, corruption="swap")])
    assert row["correlation"] is None and row["cells"] == 1 and "1 cells" in row["note"]


def test_only_maps_that_differ_in_the_corruption_alone_are_compared() -> None:
    one = made(np.random.default_rng(4).random((3, 5)))
    swap = replace(one, corruption="swap")
    for other in (
        replace(swap, kind="mlp"),
        replace(swap, severed="mlp"),
        replace(swap, direction="corrupt"),
        replace(swap, metric="kl"),
        replace(swap, answer="e"),
        one,
    ):
        assert agreement([one, other]) == []
    three = [one, swap, replace(one, corruption="uniform:3s")]
    assert [(row["first"], row["second"]) for row in agreement([*three, replace(one, kind="mlp")])] == [
        ("gaussian:3s", "swap"),
        ("gaussian:3s", "uniform:3s"),
        ("swap", "uniform:3s"),
    ]


def averaged(mean: Any, **changes: Any) -> AverageMap:
    mean = np.asarray(mean, dtype=np.float64)
    fields: dict[str, Any] = {
        "kind": "mlp", "window": 10, "head": None, "severed": "", "corruption": "gaussian:3s", "direction": "restore",
        "metric": "probability", "averaged": 2, "small": 0, "facts": np.zeros(6, dtype=np.int64), "mean": mean,
        "band_low": mean, "band_high": mean, "noise_se": mean, "high": 1.0, "low": 0.0, "total_effect": 1.0,
        "total_low": 1.0, "total_high": 1.0, "peaks": np.zeros((0, 2), dtype=np.int64),
    }  # fmt: skip
    return AverageMap(**{**fields, **changes})


def test_averages_are_compared_by_role_and_layer() -> None:
    numbers = np.random.default_rng(1)
    left, right = numbers.normal(size=(2, 6, 4))
    right[1] = np.nan  # a role that no fact has
    maps = [averaged(left), averaged(right, corruption="swap"), averaged(left, kind="attn")]
    (row,) = average_agreement(maps, [left, right, left], 7)
    kept = [0, 2, 3, 4, 5]
    wanted = spearman([float(one) for one in left[kept].flat], [float(one) for one in right[kept].flat])
    assert row["correlation"] == pytest.approx(wanted) and (row["cells"], row["facts"]) == (20, 7)
    assert (row["first"], row["second"], row["kind"]) == ("gaussian:3s", "swap", "mlp")
    nothing = np.full((6, 4), np.nan)
    (row,) = average_agreement(maps[:2], [nothing, nothing], 0)
    assert row["correlation"] is None and row["note"] == "no fact localises under all"
