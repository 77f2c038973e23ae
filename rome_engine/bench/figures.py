"""Figures as they are compared: a metric's mean over records, or one made of several such means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import isfinite, nan
from typing import TypeGuard

import numpy as np

from rome_engine.bench.metrics import metrics
from rome_engine.bench.run import Row, Run
from rome_engine.bench.statistics import Array, Combine, harmonic, only
from rome_engine.errors import BenchError

COMPOSITES = {"s@1": ("es@1", "ps@1", "ns@1")}
"""Harmonic means of means (S: Meng et al. 2022, section 3.3): they belong to a run, not to a record."""


@dataclass(frozen=True)
class Figure:
    """A figure by name. parts: the metrics whose means it is made of. unit, higher: None where the metric is unknown.

    A run that was made with a metric this version no longer has is read all the same.
    """

    name: str
    parts: tuple[str, ...]
    unit: str | None = None
    higher: bool | None = None

    @property
    def combine(self) -> Combine:
        """What makes the figure of its parts' means."""
        return only if len(self.parts) == 1 else harmonic

    @property
    def share(self) -> bool:
        """Whether it lies between 0 and 1."""
        return self.unit == "share"

    def values(self, rows: Iterable[Row]) -> dict[str, tuple[float, ...]]:
        """Of each record that has any of it, by id, the value of every part; NaN where there is no finite number."""
        found = {}
        for row in rows:
            values = [row.figures.get(part) for part in self.parts]
            if row.status == "done" and any(map(_there, values)):
                found[row.id] = tuple(float(value) if _there(value) else nan for value in values)
        return found


def _there(value: float | None) -> TypeGuard[float]:
    return value is not None and isfinite(value)


def array(values: Iterable[Sequence[float]], parts: int) -> Array:
    """Records' values, (records, parts), also where there is none."""
    return np.array(list(values), dtype=np.float64).reshape(-1, parts)


def present(runs: Sequence[Run]) -> list[Figure]:
    """The figures of runs: one made of several first, then what it is made of, the others as the runs name metrics."""
    named = [base(name) for run in runs for name in run.configuration.get("metrics", ())]
    place = {name: named.index(name) for name in named}
    found = dict.fromkeys(name for run in runs for row in run.rows for name in row.figures)
    there = sorted(found, key=lambda name: place.get(base(name), len(named)))
    made = {name: parts for name, parts in COMPOSITES.items() if set(parts) <= set(there)}
    return [figure(name) for name in dict.fromkeys((*made, *chain(*made.values()), *there))]


def figure(name: str) -> Figure:
    """The figure of this name."""
    parts = COMPOSITES.get(name, (name,))
    known = metrics().get(parts[0])
    return Figure(name, parts, None if known is None else known.unit, None if known is None else known.higher)


def chosen(names: Iterable[str], among: Sequence[Figure]) -> list[Figure]:
    """The figures of these names; one without a version means its newest. Raises BenchError for one that no run has."""
    found: dict[str, Figure] = {}
    for name in names:
        fitting = [one for one in among if name.lower() in (one.name, base(one.name))]
        if not fitting:
            there = ", ".join(one.name for one in among)
            raise BenchError(f"no run has the figure {name!r}: there are {there or 'none'}")
        newest = max(fitting, key=lambda one: version(one.name))
        found[newest.name] = newest
    return list(found.values())


def base(name: str) -> str:
    """A metric's name without its version."""
    return name.partition("@")[0]


def version(name: str) -> int:
    """A metric's version; 0 for a name that tells none."""
    number = name.partition("@")[2]
    return int(number) if number.isdigit() else 0
