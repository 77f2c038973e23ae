"""One map averaged over facts, by token role and layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rome_engine.files import plain
from rome_engine.trace.roles import ROLES

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

FALLING = ("kl", "rank")
"""Metrics that fall where the answer comes back."""


@dataclass(frozen=True, eq=False)
class AverageMap:
    """One map averaged over facts: the indirect effect by token role and layer, in `metric`, signed and not clipped.

    kind, window, head, severed, corruption, direction, samples: as in Trace. Arrays of shape (roles, layers) have the
    six `ROLES` as rows; NaN where no fact has a token of that role. Each fact's tokens of one role are averaged first,
    and each fact counts once.

    facts: (roles,) the facts that have a token of the role. averaged: the facts in this map. small: traced facts whose
    total effect is under the threshold (`Average.threshold`); they are among `averaged` only where
    `Average.small_included`.
    mean: (roles, layers) of the effect. band_low, band_high: its 95 % percentile bootstrap over facts (clusters); NaN
    where fewer than two facts have the role. noise_se: the standard error of the mean from the noise draws alone
    (which the band contains too); NaN where one draw tells nothing of its spread, 0 for a swap.
    high, low: means over facts of the clean and the corrupted run's own values. total_effect: mean of high - low, with
    its band in total_low, total_high.
    peaks: (averaged, 2) the role's index and the layer of each fact's strongest cell, in the order of `peak_facts`;
    (-1, -1) for a fact without cells. Strongest is the greatest effect; of "kl" and "rank", which fall where the answer
    comes back, the least.
    """

    kind: str
    window: int
    head: int | None
    severed: str
    corruption: str
    direction: str
    metric: str
    averaged: int
    small: int
    facts: Indices
    mean: Array
    band_low: Array
    band_high: Array
    noise_se: Array
    high: float
    low: float
    total_effect: float
    total_low: float
    total_high: float
    peaks: Indices
    peak_facts: tuple[str | None, ...] = ()
    samples: int = 1

    @property
    def roles(self) -> tuple[str, ...]:
        """The names of the rows."""
        return ROLES

    @property
    def layers(self) -> int:
        """The number of the model's layers: the columns."""
        return int(self.mean.shape[1])

    @property
    def sign(self) -> int:
        """1 where a strong cell's effect is positive, -1 for metrics that fall where the answer comes back."""
        return -1 if self.metric in FALLING else 1

    @property
    def peak_counts(self) -> Indices:
        """(roles, layers): how many facts have their strongest cell there."""
        counts = np.zeros(self.mean.shape, dtype=np.int64)
        there = self.peaks[self.peaks[:, 0] >= 0]
        np.add.at(counts, (there[:, 0], there[:, 1]), 1)
        return counts

    @property
    def peak_share(self) -> Array:
        """(roles, layers): the share of facts that have their strongest cell there."""
        counts = self.peak_counts
        return counts / max(1, int(counts.sum()))

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row a role and layer; roles that no fact has are left out."""
        shares = self.peak_share
        return [
            {
                "role": role,
                "layer": layer,
                "kind": self.kind,
                "head": self.head,
                "window": self.window,
                "direction": self.direction,
                "severed": self.severed,
                "corruption": self.corruption,
                "samples": self.samples,
                "metric": self.metric,
                "facts": int(self.facts[index]),
                "mean": float(self.mean[index, layer]),
                "band_low": float(self.band_low[index, layer]),
                "band_high": float(self.band_high[index, layer]),
                "noise_se": float(self.noise_se[index, layer]),
                "peak_share": float(shares[index, layer]),
                "total_effect": self.total_effect,
                "total_low": self.total_low,
                "total_high": self.total_high,
            }
            for index, role in enumerate(ROLES)
            if self.facts[index]
            for layer in range(self.layers)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The map as a JSON object, with the names of the roles and the peaks' histogram besides its fields."""
        return {**plain(self), "roles": list(ROLES), "peak_share": self.peak_share.tolist()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> AverageMap:
        """The map of what `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        given = {name: value for name, value in record.items() if name not in ("roles", "peak_share")}
        for name in ("mean", "band_low", "band_high", "noise_se"):
            given[name] = np.asarray(given[name], dtype=np.float64)  # null stands for NaN
        for name in ("high", "low", "total_effect", "total_low", "total_high"):
            given[name] = float("nan") if given[name] is None else float(given[name])
        given["facts"] = np.asarray(given["facts"], dtype=np.int64)
        given["peaks"] = np.asarray(given["peaks"], dtype=np.int64).reshape(-1, 2)
        given["peak_facts"] = tuple(given["peak_facts"])
        return cls(**given)
