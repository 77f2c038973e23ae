"""Estimates with their intervals: records are drawn, and the figure is taken anew of each draw.

The bootstrap is the bias-corrected and accelerated one (BCa: Efron 1987; Efron & Tibshirani 1993, chapter 14), which
stays near its stated coverage for skewed figures such as shares close to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from rome_engine.trace.bootstrap import draws

Array = NDArray[np.float64]
Combine = Callable[[Array], Array]
"""Makes figures of means: (…, parts) to (…)."""

RESAMPLES = 2000
CONFIDENCE = 0.95
ROUNDING = 1e-12
"""What differs by less than this share is equal but for its last bits."""


@dataclass(frozen=True)
class Estimate:
    """A figure over n records with its 95 % interval.

    value: None over no record. low, high: None where there is no interval. how: the interval's kind. reason: why the
    value or the interval is not there.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    how: str | None = None
    reason: str | None = None

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None


def only(means: Array) -> Array:
    """The one part of a figure that has no other."""
    return means[..., 0]


def harmonic(means: Array) -> Array:
    """The harmonic mean of the parts, 0 where one of them is not positive: S of Meng et al. 2022, section 3.3.

    NaN where a part is NaN.
    """
    inverse = np.divide(1.0, means, out=np.full_like(means, np.inf), where=~(means <= 0))
    return np.asarray(means.shape[-1] / inverse.sum(-1))


def mean(values: Array, weights: Array | None = None) -> Array:
    """The mean of each part over the records that have it, (records, parts) to (parts); NaN where none has it.

    weights: of the records, (…, records), which come first in the result.
    """
    there = ~np.isnan(values)
    each = np.ones(len(values)) if weights is None else weights
    count = each @ there
    total = each @ np.where(there, values, 0.0)
    return np.asarray(np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0))


def estimate(values: Array, combine: Combine = only, *, share: bool = False, seed: int = 0) -> Estimate:
    """The figure of records' values, (records, parts), each part a mean, and its interval.

    A value that is NaN is not there: each part is the mean over the records that have it.
    share: values lie between 0 and 1. If all are 0, or all 1, resampling sees no spread; the interval is then that of
    Clopper & Pearson (1934), which holds for the mean of anything between 0 and 1.
    """
    n = len(values)
    if n == 0:
        return Estimate(None, 0, reason="no record has it")
    counts = (~np.isnan(values)).sum(0)
    if not counts.all():
        return Estimate(None, 0, reason="no record has one of its parts")
    value = float(combine(mean(values)))
    if n == 1:
        return Estimate(value, 1, reason="one record tells nothing of how records differ")
    lowest, highest = np.nanmin(values, 0), np.nanmax(values, 0)
    if (lowest == highest).all():
        if share and value in (0.0, 1.0) and (lowest == value).all():
            reach = ((1 - CONFIDENCE) / 2) ** (1 / counts.min())
            low, high = (reach, 1.0) if value else (0.0, 1 - reach)
            return Estimate(value, n, low, high, "Clopper-Pearson")
        return Estimate(value, n, reason=f"all {n} records have the same value")
    low, high = _bca(values, combine, seed)
    if high - low <= ROUNDING * abs(value):  # no certainty: such as S where one of its parts is 0 in every record
        return Estimate(value, n, reason="whichever records are drawn, it is the same")
    return Estimate(value, n, low, high, "BCa bootstrap")


def _bca(values: Array, combine: Combine, seed: int) -> tuple[float, float]:
    n = len(values)
    point = float(combine(mean(values)))
    drawn = combine(np.concatenate([mean(values, counts) for counts in draws(n, RESAMPLES, seed)]))
    drawn = drawn[~np.isnan(drawn)]  # few of the records have a part, and none of those was drawn
    near = ROUNDING * max(1.0, abs(point))
    below = np.count_nonzero(drawn < point - near) + 0.5 * np.count_nonzero(np.abs(drawn - point) <= near)
    bias = norm.ppf(np.clip(below / len(drawn), 1 / len(drawn), 1 - 1 / len(drawn)))
    without = combine(_without_each(values))
    without = without[~np.isnan(without)]
    away = without.mean() - without if len(without) else without
    spread = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    tails = bias + norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(drawn, norm.cdf(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)


def _without_each(values: Array) -> Array:
    """The means with each record left out once, (records, parts)."""
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    count = there.sum(0) - there
    return np.asarray(np.divide(filled.sum(0) - filled, count, out=np.full(values.shape, np.nan), where=count > 0))
