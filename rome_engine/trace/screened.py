"""The result of a screen: approximate effects of all cells, exact ones of some, and what the first missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rome_engine.files import plain
from rome_engine.trace.roles import role_of

Array = NDArray[np.float64]
Marks = NDArray[Any]
"""Texts: their number type has their length in its name."""

CHOSEN = ("top", "random")
CONFIDENCE = 0.95
_FEW = 3  # cells, under which a correlation says nothing


@dataclass(frozen=True, eq=False)
class ScreenedMap:
    """One map: arrays of shape (tokens, layers), or (heads, tokens, layers) for kind "head".

    approximate: NaN for cells that were not asked for. exact: NaN for cells that were not verified. chosen: "top",
    "random" or "", why a cell was verified.
    """

    kind: str
    window: int
    approximate: Array
    exact: Array
    chosen: Marks


@dataclass(frozen=True)
class Agreement:
    """How approximate and exact effects of `cells` verified cells correlate; None where that cannot be said."""

    cells: int
    pearson: float | None
    spearman: float | None


@dataclass(frozen=True)
class Missed:
    """What share of the cells that matter is not among the top cells of the screen.

    A cell matters where its exact effect is at least `share` of the strongest exact effect found, `threshold`, in size.
    top, sampled: verified cells; top_matter, sampled_matter: those of them that matter. rest: all cells but the top
    ones, from which the sampled ones were drawn, each as likely as the other.
    estimate: rest_matter / (top_matter + rest_matter), with rest_matter = rest · sampled_matter / sampled; None where
    nothing matters or nothing was sampled of a rest. low, high: its 95 % interval, from the Clopper-Pearson interval of
    the sampled proportion and from the cells that are known; None where nothing matters.
    """

    share: float
    threshold: float
    top: int
    top_matter: int
    sampled: int
    sampled_matter: int
    rest: int
    estimate: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, top: Array, sampled: Array, rest: int, share: float) -> Missed:
        """top, sampled: exact effects of the verified cells."""
        strongest = max((float(abs(effect)) for effect in (*top, *sampled)), default=0.0)
        threshold = share * strongest
        matter = [int((abs(effects) >= threshold).sum()) if strongest else 0 for effects in (top, sampled)]
        known, drawn, hits = matter[0], len(sampled), matter[1]
        low, high = _interval(hits, drawn)
        # Counts among the rest: not fewer than were seen to matter, not more than were not seen not to.
        fewest, most = max(float(hits), rest * low), min(float(rest - drawn + hits), rest * high)
        likely = 0.0 if rest == 0 else rest * hits / drawn if drawn else None
        nothing = strongest == 0
        return cls(
            share=share,
            threshold=threshold,
            top=len(top),
            top_matter=known,
            sampled=drawn,
            sampled_matter=hits,
            rest=rest,
            estimate=None if nothing or likely is None else _part(likely, known),
            low=None if nothing else _part(fewest, known),
            high=None if nothing else _part(most, known),
        )


@dataclass(frozen=True, eq=False)
class Screen:
    """Effects of all cells of some maps on `metric`, approximate by gradients, and exact for those that were verified.

    Effects are signed as `Trace.indirect_effect`: how far exchanging the state brings the answer back (direction
    "restore") or takes it away ("corrupt"), averaged over the samples, in the metric's unit. `high` and `low` are the
    metric in the clean and the corrupted run, `probabilities` the answer's probability in them. `seconds` of the screen
    (baseline, gradients) and of the verification; `engine` made the exact numbers.
    """

    model: str
    prompt: str
    subject: str
    tokens: tuple[str, ...]
    subject_range: tuple[int, int]
    answer: str
    foil: str | None
    metric: str
    direction: str
    corruption: str
    samples: int
    seed: int
    high: float
    low: float
    probabilities: tuple[float, float]
    maps: tuple[ScreenedMap, ...]
    missed: Missed
    engine: str
    seconds: Mapping[str, float]
    fact: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total_effect(self) -> float:
        """high - low: what there is to bring back."""
        return self.high - self.low

    @property
    def cells(self) -> int:
        """The number of cells screened."""
        return sum(int(np.isfinite(one.approximate).sum()) for one in self.maps)

    @cached_property
    def agreement(self) -> dict[str, Agreement]:
        """Of the top cells and of the random ones apart: the first were chosen for large approximations."""
        return {chosen: self._agreement(chosen) for chosen in CHOSEN}

    def _agreement(self, chosen: str) -> Agreement:
        pairs = [(one.approximate[at], one.exact[at]) for one in self.maps for at in [one.chosen == chosen]]
        approximate, exact = (np.concatenate(part) for part in zip(*pairs, strict=True))
        cells = int(exact.size)
        if cells < _FEW or not (np.ptp(approximate) and np.ptp(exact)):
            return Agreement(cells, None, None)
        return Agreement(
            cells,
            float(stats.pearsonr(approximate, exact).statistic),
            float(stats.spearmanr(approximate, exact).statistic),
        )

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row a cell. `exact` and `chosen` are None where a cell was not verified.

        `effect` is the exact effect where there is one, else the approximate one; `effect_is` says which.
        """
        found = []
        for one in self.maps:
            for at in np.ndindex(one.approximate.shape):
                if np.isnan(one.approximate[at]):
                    continue
                *head, position, layer = at
                verified = one.chosen[at] != ""
                approximate, exact = float(one.approximate[at]), float(one.exact[at])
                found.append(
                    {
                        "token": position,
                        "text": self.tokens[position],
                        "role": role_of(position, self.subject_range, len(self.tokens)),
                        "layer": layer,
                        "kind": one.kind,
                        "head": head[0] if head else None,
                        "window": one.window,
                        "metric": self.metric,
                        "approximate": approximate,
                        "exact": exact if verified else None,
                        "chosen": str(one.chosen[at]) if verified else None,
                        "effect": exact if verified else approximate,
                        "effect_is": "exact" if verified else "approximate",
                    }
                )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The screen as a JSON object; numbers that are not there are NaN in the arrays."""
        derived = {"total_effect": self.total_effect, "cells": self.cells, "agreement": plain(self.agreement)}
        return {**plain(self), **derived}


def _interval(hits: int, drawn: int) -> tuple[float, float]:
    """Clopper and Pearson (1934): all proportions at which so many or so few hits are not too rare."""
    tail = (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, hits, drawn - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, drawn - hits)) if hits < drawn else 1.0
    return low, high


def _part(missing: float, known: int) -> float:
    """Where nothing is known and nothing missing, nothing is missed."""
    return missing / (missing + known) if missing + known else 0.0
