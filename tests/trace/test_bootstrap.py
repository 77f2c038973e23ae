"""The bootstrap's bands: those of a plain loop over the same draws, and about as wide as theory says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rome_engine.trace import bootstrap


def looped(values: NDArray[np.float64], resamples: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same band in the plainest way: each resample's facts written out one by one."""
    counts = np.concatenate(list(bootstrap.draws(len(values), resamples, seed)))
    means = np.full((resamples, values.shape[1]), np.nan)
    for index, count in enumerate(counts):
        chosen = [row for row, times in enumerate(count) for _ in range(int(times))]
        assert len(chosen) == len(values)
        for column in range(values.shape[1]):
            there = [values[row, column] for row in chosen if not np.isnan(values[row, column])]
            if there:
                means[index, column] = sum(there) / len(there)
    low, high = np.nanpercentile(means, [2.5, 97.5], axis=0)
    return low, high


def test_the_band_is_that_of_a_plain_loop_over_the_same_draws() -> None:
    values = np.random.default_rng(3).normal(size=(7, 4))
    values[:4, 2] = np.nan
    low, high = bootstrap.band(values, 1100, seed=5)
    np.testing.assert_allclose((low, high), looped(values, 1100, 5), rtol=1e-12)
    other = bootstrap.band(values, 1100, seed=6)
    assert not np.array_equal(low, other[0])
    np.testing.assert_array_equal(low, bootstrap.band(values, 1100, seed=5)[0])


def test_draws_are_uniform_over_the_facts() -> None:
    counts = np.concatenate(list(bootstrap.draws(5, 4000, 0)))
    assert counts.shape == (4000, 5) and (counts.sum(1) == 5).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=5 * (0.8 / 4000) ** 0.5)
    np.testing.assert_allclose(counts.var(0), 0.8, rtol=0.15)  # of a binomial with n = 5, p = 1/5


def test_the_band_covers_the_true_mean_about_as_often_as_it_says() -> None:
    """95 % less what a percentile band of 40 facts falls short of: 300 sets of facts, five standard errors of room."""
    random = np.random.default_rng(0)
    low, high = bootstrap.band(random.normal(0.3, 1, (40, 300)), 1000, seed=1)
    covered = float(((low < 0.3) & (high > 0.3)).mean())
    assert 0.95 - 5 * (0.95 * 0.05 / 300) ** 0.5 - 0.02 < covered < 1.0
    assert float((high - low).mean()) == pytest.approx(2 * 1.96 / 40**0.5, rel=0.1)


def test_roles_and_layers_of_a_fact_move_together() -> None:
    values = np.random.default_rng(1).normal(size=(9, 1))
    low, high = bootstrap.band(np.concatenate([values, -values, 2 * values + 1], axis=1), 1000, seed=2)
    np.testing.assert_allclose((low[1], high[1]), (-high[0], -low[0]), rtol=1e-9)
    np.testing.assert_allclose((low[2], high[2]), (2 * low[0] + 1, 2 * high[0] + 1), rtol=1e-9)
