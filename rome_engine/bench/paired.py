"""Two runs on the same records: tests of no difference, intervals and sizes of the difference, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy.stats import binomtest

from rome_engine.bench.statistics import CONFIDENCE, ROUNDING, Array, Combine, mean, only

EXACT = 14
"""Up to so many records that differ all ways to exchange them are gone through."""
SHUFFLES = 20_000
CHUNK = 1000
"""Shuffles that are there at once."""


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test of no difference: its name and its p value."""

    name: str
    p: float


@dataclass(frozen=True)
class Effect:
    """The size of a difference in a unit of its own. value: None where it has none, which `reason` tells.

    name: "d_z" (Cohen 1988: the mean difference by the differences' standard deviation) or "g" (the share of the
    discordant records that the first run has, less one half). first_only, second_only: records with 1 in that run
    alone, for figures of 0 and 1.
    """

    name: str
    value: float | None
    reason: str | None = None
    first_only: int | None = None
    second_only: int | None = None


def binary(first: Array, second: Array) -> bool:
    """Whether both are figures of 0 and 1."""
    return first.shape[-1] == 1 and bool(np.isin(np.concatenate([first, second]), (0.0, 1.0)).all())


def mcnemar(first: Array, second: Array) -> PairedTest:
    """McNemar's exact test (McNemar 1947) of figures of 0 and 1, (records, 1): a sign test of the discordant ones."""
    ahead, behind = _discordant(first, second)
    p = float(binomtest(ahead, ahead + behind, 0.5).pvalue) if ahead + behind else 1.0
    return PairedTest("McNemar, exact", p)


def newcombe(first: Array, second: Array) -> tuple[float, float]:
    """The 95 % interval of the difference of figures of 0 and 1, (records, 1): Newcombe 1998, method 10.

    (Statistics in Medicine 17, 2635-2650.) The Wilson intervals of both shares, joined by their correlation φ, which
    is corrected towards 0. It says something where few records differ, of which resampling makes too little.
    """
    n = len(first)
    shares = [int(np.count_nonzero(side)) for side in (first, second)]
    ahead, behind = _discordant(first, second)
    both = shares[0] - ahead
    covariance = both * (n - both - ahead - behind) - ahead * behind
    spread = sqrt(float(np.prod([float(share * (n - share)) for share in shares])))
    phi = (covariance if covariance < 0 else max(0.0, covariance - n / 2)) / spread if spread else 0.0
    (below, above), (below_second, above_second) = (_wilson_reach(share, n) for share in shares)
    difference = (shares[0] - shares[1]) / n
    return (
        difference - sqrt(below**2 - 2 * phi * below * above_second + above_second**2),
        difference + sqrt(above**2 - 2 * phi * above * below_second + below_second**2),
    )


def permutation(first: Array, second: Array, combine: Combine = only, *, seed: int = 0) -> PairedTest:
    """Whether the figure's difference is one that exchanging the two runs within records brings about by chance.

    first, second: (records, parts), NaN at the same places. With up to EXACT records that differ every exchange is gone
    through, otherwise SHUFFLES are drawn, and p counts the observed one among them (Phipson & Smyth 2010).
    """
    away = np.nan_to_num(second - first)
    differ = away.any(-1)
    moved = away[differ]
    observed = abs(_difference(mean(first), mean(second), combine))
    count = len(moved)
    if count <= EXACT:
        exchanged = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(np.float64)
        return PairedTest("sign flips, exact", _reached(exchanged, first, second, moved, combine, observed) / 2**count)
    random = np.random.default_rng(seed)
    reached = 0
    for begin in range(0, SHUFFLES, CHUNK):
        size = min(CHUNK, SHUFFLES - begin)
        exchanged = random.integers(2, size=(size, count), dtype=np.int8).astype(np.float64)
        reached += _reached(exchanged, first, second, moved, combine, observed)
    return PairedTest(f"sign flips, {SHUFFLES:,} drawn", (1 + reached) / (1 + SHUFFLES))


def paired_test(first: Array, second: Array, combine: Combine = only, *, seed: int = 0) -> PairedTest:
    """The test that fits: McNemar's for figures of 0 and 1, sign flips for all others."""
    return mcnemar(first, second) if binary(first, second) else permutation(first, second, combine, seed=seed)


def effect(first: Array, second: Array) -> Effect | None:
    """How large a difference is, (records, parts); None for a figure of several parts, which no single record has."""
    if first.shape[-1] > 1:
        return None
    if binary(first, second):
        ahead, behind = _discordant(first, second)
        if ahead + behind == 0:
            return Effect("g", None, "no record differs", 0, 0)
        return Effect("g", ahead / (ahead + behind) - 0.5, None, ahead, behind)
    away = (first - second)[:, 0]
    if len(away) < 2:
        return Effect("d_z", None, "fewer than two records")
    deviation = float(away.std(ddof=1))
    if deviation <= ROUNDING * max(1.0, float(np.abs(away).max())):
        return Effect("d_z", None, "all records differ by the same" if away.any() else "no record differs")
    return Effect("d_z", float(away.mean()) / deviation)


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979): the chance of one false finding among all is kept."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    corrected, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = least
    return corrected


def _discordant(first: Array, second: Array) -> tuple[int, int]:
    return int(np.count_nonzero(first > second)), int(np.count_nonzero(first < second))


def _wilson_reach(count: int, n: int) -> tuple[float, float]:
    """How far Wilson's interval reaches below a share and above it."""
    found = binomtest(count, n).proportion_ci(CONFIDENCE, "wilson")
    return max(0.0, count / n - float(found.low)), max(0.0, float(found.high) - count / n)


def _difference(first: Array, second: Array, combine: Combine) -> float:
    return float(combine(first) - combine(second))


def _reached(exchanged: Array, first: Array, second: Array, moved: Array, combine: Combine, observed: float) -> int:
    """In how many exchanges, (exchanges, records that differ), the difference is as large as the observed one."""
    shift = exchanged @ moved / (~np.isnan(first)).sum(0)
    away = np.abs(combine(mean(first) + shift) - combine(mean(second) - shift))
    return int(np.count_nonzero(away >= observed - ROUNDING * max(1.0, observed)))
