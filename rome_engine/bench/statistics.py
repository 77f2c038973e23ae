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
    """The harmonic mean of the parts, 0 where one of them is not positive: S of Meng et al. 2022, section 3.3."""
    positive = (means > 0).all(-1)
    inverse = np.divide(1.0, means, out=np.ones_like(means), where=means > 0)
    return np.where(positive, means.shape[-1] / inverse.sum(-1), 0.0)


def estimate(values: Array, combine: Combine = only, *, share: bool = False, seed: int = 0) -> Estimate:
    """The figure of records' values, (records, parts), each part a mean, and its interval.

    share: values lie between 0 and 1. If all are 0, or all 1, resampling sees no spread; the interval is then that of
    Clopper & Pearson (1934), which holds for the mean of anything between 0 and 1.
    """
    n = len(values)
    if n == 0:
        return Estimate(None, 0, reason="no record has it")
    value = float(combine(values.mean(0)))
    if n == 1:
        return Estimate(value, 1, reason="one record tells nothing of how records differ")
    if (values == values[0]).all():
        if share and np.isin(values[0], (0.0, 1.0)).all() and value in (0.0, 1.0) and len(set(values[0])) == 1:
            reach = ((1 - CONFIDENCE) / 2) ** (1 / n)
            low, high = (reach, 1.0) if value else (0.0, 1 - reach)
            return Estimate(value, n, low, high, "Clopper-Pearson")
        return Estimate(value, n, reason=f"all {n} records have the same value")
    low, high = _bca(values, combine, seed)
    if high - low <= ROUNDING * abs(value):  # no certainty: such as S where one of its parts is 0 in every record
        return Estimate(value, n, reason="whichever records are drawn, it is the same")
    return Estimate(value, n, low, high, "BCa bootstrap")


def _bca(values: Array, combine: Combine, seed: int) -> tuple[float, float]:
    n = len(values)
    point = float(combine(values.mean(0)))
    drawn = combine(np.concatenate([counts @ values / n for counts in draws(n, RESAMPLES, seed)]))
    near = ROUNDING * max(1.0, abs(point))
    below = np.count_nonzero(drawn < point - near) + 0.5 * np.count_nonzero(np.abs(drawn - point) <= near)
    bias = norm.ppf(np.clip(below / RESAMPLES, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    without = combine((values.sum(0) - values) / (n - 1))  # each record left out once
    away = without.mean() - without
    spread = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    tails = bias + norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(drawn, norm.cdf(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)
