"""Two runs paired by record: what counts and what is left out, the difference, its test, and where they disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan

import numpy as np

from rome_engine.bench.figures import Figure, array
from rome_engine.bench.paired import Effect, PairedTest, binary, effect, holm, newcombe, paired_test
from rome_engine.bench.run import Row
from rome_engine.bench.statistics import Array, Combine, Estimate, estimate, mean

NEWCOMBE = "Newcombe, paired"


@dataclass(frozen=True)
class Disagreement:
    """A record's figure in two runs."""

    id: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """First less second."""
        return self.first - self.second


@dataclass(frozen=True)
class Pair:
    """A figure of two runs over the n records that both have: the difference is first less second.

    left: records of either run that do not count, by reason. test, corrected, effect: None where there is nothing to
    test; corrected is Holm's over all tests of the comparison. disagreements: all records that differ, from the
    greatest difference to the least; none for a figure that single records do not have.
    """

    first: str
    second: str
    figure: Figure
    n: int
    left: Mapping[str, int]
    first_value: float | None
    second_value: float | None
    difference: Estimate
    test: PairedTest | None
    effect: Effect | None
    disagreements: tuple[Disagreement, ...]
    corrected: float | None = None

    def farthest(self, count: int) -> list[Disagreement]:
        """The records that differ most, in the order of their difference."""
        most = sorted(self.disagreements, key=lambda one: -abs(one.difference))[:count]
        return sorted(most, key=lambda one: -one.difference)


def pairs(
    names: tuple[str, str], first: Sequence[Row], second: Sequence[Row], figures: Sequence[Figure], seed: int = 0
) -> list[Pair]:
    """Two runs' rows at one checkpoint each, compared in every figure that either of them has."""
    one, other = {row.id: row for row in first}, {row.id: row for row in second}
    found = []
    for figure in figures:
        here, there = figure.values(one.values()), figure.values(other.values())
        if not here and not there:
            continue
        left: Counter[str] = Counter()
        for name in {**one, **other}:
            sides = zip(names, (one, other), (here, there), strict=True)
            reasons = [_reason(run, rows.get(name)) for run, rows, values in sides if name not in values]
            left.update([", ".join(reasons)] if reasons else [])
        common = [name for name in here if name in there]
        values = [array((side[name] for name in common), len(figure.parts)) for side in (here, there)]
        only_one = np.isnan(values[0]) | np.isnan(values[1])  # a part that one run lacks is paired with nothing
        first_values, second_values = (np.where(only_one, np.nan, side) for side in values)
        found.append(_pair(names, figure, common, first_values, second_values, left, seed))
    return found


def corrected(several: Sequence[Pair]) -> tuple[Pair, ...]:
    """The same with p values corrected for the number of all their tests."""
    there = [(place, one.test.p) for place, one in enumerate(several) if one.test is not None]
    found = dict(zip((place for place, _ in there), holm([p for _, p in there]), strict=True))
    return tuple(replace(one, corrected=found.get(place)) for place, one in enumerate(several))


def _reason(run: str, row: Row | None) -> str:
    if row is None:
        return f"not measured in {run}"
    return f"failed in {run}" if row.status == "failed" else f"nothing to measure in {run}"


def _pair(
    names: tuple[str, str],
    figure: Figure,
    ids: Sequence[str],
    first: Array,
    second: Array,
    left: Mapping[str, int],
    seed: int,
) -> Pair:
    combine = figure.combine
    there = len(ids) > 0 and not np.isnan(first).all(0).any()
    differ = [
        Disagreement(name, float(one[0]), float(other[0]))
        for name, one, other in zip(ids, first, second, strict=True)
        if len(figure.parts) == 1 and one[0] != other[0]
    ]
    return Pair(
        first=names[0],
        second=names[1],
        figure=figure,
        n=len(ids),
        left=dict(left),
        first_value=_mean(first, combine),
        second_value=_mean(second, combine),
        difference=_difference(first, second, combine, seed),
        test=paired_test(first, second, combine, seed=seed) if there else None,
        effect=effect(first, second) if there else None,
        disagreements=tuple(sorted(differ, key=lambda one: (-one.difference, one.id))),
    )


@dataclass(frozen=True)
class _Difference:
    """The difference of a figure of two runs, of the means of the first one's parts and then of the second one's."""

    combine: Combine

    def __call__(self, means: Array) -> Array:
        first, second = np.split(means, 2, axis=-1)
        return np.asarray(self.combine(first) - self.combine(second))


def _difference(first: Array, second: Array, combine: Combine, seed: int) -> Estimate:
    found = estimate(np.concatenate([first, second], axis=1), _Difference(combine), seed=seed)
    away = first - second
    # Whichever records are drawn, the difference stays: an interval without width would look like certainty.
    if len(away) > 1 and found.value is not None and not np.nan_to_num(away).any():
        return Estimate(found.value, found.n, reason="no record differs")
    if len(away) > 1 and binary(first, second):
        return Estimate(found.value, found.n, *newcombe(first, second), NEWCOMBE)
    if len(away) > 1 and away.shape[1] == 1 and (away == away[0]).all():
        return Estimate(found.value, found.n, reason="all records differ by the same")
    return found


def _mean(values: Array, combine: Combine) -> float | None:
    """The figure; None where a part of it is not there."""
    found = float(combine(mean(values))) if len(values) else nan
    return None if isnan(found) else found
