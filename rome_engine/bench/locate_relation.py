"""What tracing effects say of edit success: correlations and explained variance (Hase et al. 2023), over facts.

Every interval is a percentile bootstrap over facts: one draw of facts draws all of their layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import rankdata

from rome_engine.bench.locate_result import SCORES, Array, Relation, Tracing
from rome_engine.bench.paired import holm
from rome_engine.bench.statistics import CONFIDENCE, RESAMPLES, ROUNDING, Estimate, estimate
from rome_engine.trace.bootstrap import draws

SHUFFLES = 2000
CHUNK = 250
"""Shuffles that are there at once."""
HOW = "percentile bootstrap over facts"


def relations(
    tracing: Sequence[Tracing], layers: Sequence[int], scores: Mapping[str, Array], seed: int = 0
) -> tuple[Relation, ...]:
    """Every map's effects at the edited layers against every score, (facts, layers), p values corrected by Holm."""
    found = [
        relation(one.effect[:, list(layers)], scores[name], one.name, name, seed) for one in tracing for name in SCORES
    ]
    tested = [one for one in found if one.p is not None]
    corrected = iter(holm([one.p for one in tested if one.p is not None]))
    return tuple(replace(one, p_corrected=None if one.p is None else next(corrected)) for one in found)


def relation(effect: Array, success: Array, tracing: str = "", score: str = "", seed: int = 0) -> Relation:
    """How effects, all of them finite, and scores go together, (facts, layers) each; NaN scores do not count."""
    sums = _Sums.of(effect, success)
    once = np.ones((1, len(effect)))
    point = sums.figures(once)
    drawn = [sums.figures(counts) for counts in draws(len(effect), RESAMPLES, seed)]
    resampled = {name: np.concatenate([one[name] for one in drawn]) for name in point}
    facts = int(sums.there.any(1).sum())

    def whole(name: str) -> Estimate:
        return _estimated(float(point[name][0]), resampled[name], facts)

    gain = whole("gain")
    chance, p = _by_chance(effect, success, float(point["gain"][0]), seed) if gain.value is not None else (None, None)
    return Relation(
        tracing=tracing,
        score=score,
        by_layer=tuple(
            _estimated(float(point["by_layer"][0, at]), resampled["by_layer"][:, at], int(sums.there[:, at].sum()))
            for at in range(effect.shape[1])
        ),
        pearson=_within(effect, success, seed),
        spearman=_within(_ranks(effect, sums.there), _ranks(success, sums.there), seed),
        r2_layer=whole("r2_layer"),
        r2_tracing=whole("r2_tracing"),
        r2_both=whole("r2_both"),
        gain=gain,
        chance=chance,
        p=p,
    )


@dataclass(frozen=True, eq=False)
class _Sums:
    """The pairs of effect x and success y, and all that their figures need: x, y, x², y², xy, (facts, layers) each."""

    there: np.ndarray
    products: tuple[Array, ...]

    @classmethod
    def of(cls, effect: Array, success: Array) -> _Sums:
        there = np.isfinite(effect) & np.isfinite(success)
        # Centred, so that differences of large sums lose no digits; no figure depends on it.
        x, y = (
            np.where(there, values - values[there].mean() if there.any() else values, 0.0)
            for values in (effect, success)
        )
        return cls(there, (x, y, x * x, y * y, x * y))

    def figures(self, counts: Array) -> dict[str, Array]:
        """The figures where fact i counts counts[:, i] times, (resamples, facts) -> (resamples,) or (…, layers)."""
        n = counts @ self.there.astype(np.float64)
        x, y, xx, yy, xy = (counts @ part for part in self.products)
        within = [_centred(n, x, x, xx), _centred(n, y, y, yy), _centred(n, x, y, xy)]
        inner_x, inner_y, inner_xy = (part.sum(-1) for part in within)
        whole_n, whole_x, whole_y = n.sum(-1), x.sum(-1), y.sum(-1)
        total_x = _centred(whole_n, whole_x, whole_x, xx.sum(-1))
        total_y = _centred(whole_n, whole_y, whole_y, yy.sum(-1))
        total_xy = _centred(whole_n, whole_x, whole_y, xy.sum(-1))
        layer = 1 - _over(inner_y, total_y)
        # What the effect adds is what it explains of what the layers leave (Frisch & Waugh 1933).
        gain = _over(inner_xy**2, inner_x * total_y)
        return {
            "by_layer": _over(within[2], np.sqrt(within[0] * within[1])),
            "r2_layer": layer,
            "r2_tracing": _over(total_xy**2, total_x * total_y),
            "r2_both": layer + gain,
            "gain": gain,
        }


def _centred(n: Array, first: Array, second: Array, product: Array) -> Array:
    """Σ (a − ā)(b − b̄) of Σ a, Σ b and Σ ab; 0 where that is rounding alone."""
    found = product - np.divide(first * second, n, out=np.zeros_like(product), where=n > 0)
    return np.where(np.abs(found) <= ROUNDING * np.maximum(np.abs(product), 1e-300), 0.0, found)


def _over(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _estimated(value: float, drawn: Array, n: int) -> Estimate:
    """A figure with the percentile interval of its resamples; those in which it does not exist are left out."""
    if not np.isfinite(value):
        return Estimate(None, n, reason="one of the two does not vary")
    drawn = drawn[np.isfinite(drawn)]
    if n < 3 or len(drawn) < RESAMPLES / 2:
        return Estimate(value, n, reason="too few facts differ")
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, n, float(low), float(high), HOW)


def _within(effect: Array, success: Array, seed: int) -> Estimate:
    """The mean over facts of the correlation over layers; facts without one are left out."""
    turned = _Sums.of(effect.T, success.T)
    found = turned.figures(np.ones((1, effect.shape[1])))["by_layer"][0]
    found = found[(turned.there.sum(0) > 2) & np.isfinite(found)]
    return estimate(found[:, None], seed=seed) if len(found) else Estimate(None, 0, reason="no fact's values vary")


def _ranks(values: Array, there: np.ndarray) -> Array:
    """Each fact's values as ranks among those that count."""
    found = np.full(values.shape, np.nan)
    for row, counting, ranks in zip(values, there, found, strict=True):
        ranks[counting] = rankdata(row[counting])
    return found


def _by_chance(effect: Array, success: Array, gain: float, seed: int) -> tuple[float, float]:
    """The mean gain where facts have one another's traces, and the share of gains as large, the real one among them."""
    generator = np.random.default_rng(seed)
    there = np.isfinite(success)
    n = np.maximum(there.sum(0), 1)
    y = np.where(there, success, 0.0)
    total = ((y - y[there].mean())[there] ** 2).sum()
    y = np.where(there, y - y.sum(0) / n, 0.0)
    gains = []
    for begin in range(0, SHUFFLES, CHUNK):
        orders = [generator.permutation(len(effect)) for _ in range(begin, min(begin + CHUNK, SHUFFLES))]
        x = np.where(there, effect[np.array(orders)], 0.0)  # (shuffles, facts, layers)
        x = np.where(there, x - x.sum(1, keepdims=True) / n, 0.0)
        gains.append(_over((x * y).sum((1, 2)) ** 2, (x * x).sum((1, 2)) * total))
    found = np.nan_to_num(np.concatenate(gains))
    return float(found.mean()), float((1 + (found >= gain * (1 - ROUNDING)).sum()) / (1 + SHUFFLES))
