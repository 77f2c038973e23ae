"""Percentile bootstrap over clusters (Efron & Tibshirani 1993, chapters 13 and 8.6): facts are drawn, never cells."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
CHUNK = 250
"""Resamples whose counts are there at once."""


def mean(values: Array) -> Array:
    """The mean over the first axis of what is not NaN; NaN where nothing is."""
    there = ~np.isnan(values)
    count = there.sum(0)
    total = np.where(there, values, 0.0).sum(0)
    found = np.full(values.shape[1:], np.nan)
    np.divide(total, count, out=found, where=count > 0)
    return found


def band(
    values: Array, resamples: int = RESAMPLES, seed: int = 0, confidence: float = CONFIDENCE
) -> tuple[Array, Array]:
    """The percentile bootstrap's lower and upper bound of each column's mean over the rows, (facts, columns).

    All columns of a row move together: one draw of rows serves every column, and the same number of rows with the same
    seed gives the same draws. NaN is left out of a column's mean. NaN where a column has fewer than two values: one
    fact says nothing of how facts differ.
    """
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    drawn = []
    for counts in draws(len(values), resamples, seed):
        weight = counts @ there.astype(np.float64)
        drawn.append(np.divide(counts @ filled, weight, out=np.full(weight.shape, np.nan), where=weight > 0))
    means = np.concatenate(drawn)  # (resamples, columns)
    low, high = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    several = there.sum(0) > 1
    if several.any():
        tails = 100 * np.array([(1 - confidence) / 2, (1 + confidence) / 2])
        low[several], high[several] = np.nanpercentile(means[:, several], tails, axis=0)
    return low, high


def draws(rows: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each row is in each resample, (some resamples, rows) at a time."""
    random = np.random.default_rng(seed)
    for begin in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - begin)
        chosen = random.integers(rows, size=(size, rows))
        flat = (chosen + rows * np.arange(size)[:, None]).ravel()
        yield np.bincount(flat, minlength=size * rows).reshape(size, rows).astype(np.float64)
