"""Intervals hold what they promise on known distributions, and there are none where nothing can be told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest

from rome_engine.bench.statistics import Array, Combine, estimate, harmonic, mean, only

Draw = Callable[[np.random.Generator], Array]


def share(chance: float, size: int) -> Draw:
    return lambda random: (random.random((size, 1)) < chance).astype(np.float64)


def successes(random: np.random.Generator) -> Array:
    return (random.random((120, 3)) < (0.95, 0.9, 0.7)).astype(np.float64)


@pytest.mark.parametrize(
    ("draw", "truth", "combine"),
    [
        (lambda random: random.normal(2.0, 3.0, (40, 1)), 2.0, only),
        (lambda random: random.exponential(1.0, (60, 1)), 1.0, only),
        (share(0.9, 100), 0.9, only),
        (successes, 3 / (1 / 0.95 + 1 / 0.9 + 1 / 0.7), harmonic),
    ],
    ids=["normal", "exponential", "share", "S"],
)
def test_intervals_cover_the_truth_about_as_often_as_they_say(draw: Draw, truth: float, combine: Combine) -> None:
    random = np.random.default_rng(0)
    trials, held = 300, 0
    for _ in range(trials):
        found = estimate(draw(random), combine)
        assert found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    assert 0.90 <= held / trials <= 0.985  # 95 %, give or take three standard errors and small samples


def test_an_interval_at_half_its_width_does_not_cover() -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        found = estimate(random.normal(0.0, 1.0, (40, 1)))
        assert found.value is not None and found.low is not None and found.high is not None
        held += abs(found.value) <= (found.high - found.low) / 4
    assert held / 200 < 0.8


def test_of_a_normal_sample_it_is_the_textbooks_interval() -> None:
    values = np.random.default_rng(2).normal(5.0, 2.0, (400, 1))
    found = estimate(values)
    error = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.1 * error)
    assert found.how == "BCa bootstrap" and found.n == 400


def test_the_seed_decides_and_the_order_of_parts_of_s_does_not() -> None:
    values = successes(np.random.default_rng(4))
    assert estimate(values, harmonic, seed=7) == estimate(values, harmonic, seed=7)
    assert estimate(values, harmonic, seed=7) != estimate(values, harmonic, seed=8)
    turned, found = estimate(values[:, ::-1], harmonic), estimate(values, harmonic)
    assert (turned.low, turned.high) == pytest.approx((found.low, found.high), abs=0.01)


def test_never_a_mean_of_nothing_nor_an_interval_of_one() -> None:
    nothing = estimate(np.empty((0, 1)))
    assert nothing.value is None and not nothing.known and nothing.n == 0 and nothing.reason == "no record has it"
    one = estimate(np.array([[0.4]]))
    assert one.value == 0.4 and not one.known and "one record" in str(one.reason)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_succeed_or_fail_the_interval_is_clopper_and_pearsons(value: float) -> None:
    found = estimate(np.full((50, 1), value), share=True)
    exact = binomtest(int(50 * value), 50).proportion_ci(0.95, "exact")
    assert found.value == value and (found.low, found.high) == pytest.approx((exact.low, exact.high))
    assert estimate(np.full((50, 3), value), harmonic, share=True).low == pytest.approx(found.low)


def test_other_figures_that_never_vary_have_no_interval_and_say_why() -> None:
    for found in (
        estimate(np.zeros((50, 1))),  # such as a divergence
        estimate(np.full((50, 1), 0.5), share=True),
        estimate(np.tile([1.0, 1.0, 0.0], (50, 1)), harmonic, share=True),
    ):
        assert found.value is not None and not found.known and "same value" in str(found.reason)


def test_what_no_draw_changes_has_no_interval_and_says_why() -> None:
    random = np.random.default_rng(5)
    values = np.stack([random.random(50) < 0.8, np.zeros(50), random.random(50) < 0.7], axis=1).astype(np.float64)
    found = estimate(values, harmonic, share=True)
    assert found.value == 0.0 and not found.known and found.how is None
    assert found.reason == "whichever records are drawn, it is the same"


def test_harmonic_means() -> None:
    means = np.array([[1.0, 0.5, 0.25], [0.9, 0.0, 0.9], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(harmonic(means), [3 / 7, 0.0, 0.5])


def test_each_part_is_the_mean_of_the_records_that_have_it() -> None:
    random = np.random.default_rng(8)
    values = (random.random((60, 3)) < (0.9, 0.7, 0.6)).astype(np.float64)
    values[random.random(60) < 0.5, 1] = np.nan
    means = np.array([np.mean([one for one in part if one == one]) for part in values.T])
    np.testing.assert_allclose(mean(values), means)
    found = estimate(values, harmonic)
    assert found.value == pytest.approx(3 / (1 / means).sum()) and found.n == 60
    assert found.low is not None and found.high is not None and found.low < found.value < found.high
    more = np.concatenate([values, np.full((5, 3), np.nan)])
    assert estimate(more, harmonic).value == pytest.approx(found.value)
    lacking = estimate(np.where([False, True, False], np.nan, values), harmonic)
    assert lacking.value is None and lacking.reason == "no record has one of its parts"


def test_a_part_that_one_record_has_still_gives_a_figure() -> None:
    values = np.random.default_rng(9).random((20, 2))
    values[1:, 1] = np.nan
    found = estimate(values, harmonic)
    assert found.value == pytest.approx(float(harmonic(np.array([values[:, 0].mean(), values[0, 1]]))))
    assert found.low is not None and found.high is not None and found.low <= found.value <= found.high


def test_where_all_that_is_there_succeeds_the_interval_is_of_the_part_with_the_fewest() -> None:
    values = np.ones((50, 3))
    values[10:, 1] = np.nan
    found = estimate(values, harmonic, share=True)
    assert found.how == "Clopper-Pearson" and found.low == pytest.approx(0.025 ** (1 / 10))
