"""How far maps of different corruptions agree (Zhang & Nanda 2023 found that they can localise differently)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from rome_engine.trace.average_map import AverageMap
from rome_engine.trace.result import Trace

FEWEST = 3
"""Cells below which a rank correlation says nothing."""
NAMED = ("kind", "window", "head", "direction", "severed", "metric")
"""What the rows say of a map."""

Row = dict[str, Any]


def agreement(traces: Sequence[Trace]) -> list[Row]:
    """Spearman's rank correlation of the maps' cells, for each pair of traces that differ in the corruption alone.

    Only tokens from the subject on count, because nothing before it was corrupted, and cells that are finite in both
    maps. A row a pair: kind, window, head, direction, severed, metric, `first` and `second` (the corruptions), `cells`
    (their number), `correlation`, and `note`, which says why a correlation is None. Cells of one map depend on
    one another, so that no significance is given.
    """
    same = ("model", "prompt", "subject", "tokens", "answer", "foil", *NAMED)
    return _pairs(traces, same, [one.scores[one.subject_range[0] :] for one in traces])


def average_agreement(
    maps: Sequence[AverageMap], means: Sequence[NDArray[np.float64]], facts: int
) -> list[dict[str, Any]]:
    """The same of averages: effects by role and layer of maps that differ in the corruption alone.

    means: a map's mean effects (roles, layers) over the `facts` that all corruptions let localise, as each map's own
    facts are others under another corruption; their number is told in each row.
    """
    rows = _pairs(maps, NAMED, means)
    return [{**row, "facts": facts, "note": row["note"] if facts else "no fact localises under all"} for row in rows]


def _pairs(maps: Sequence[Any], same: Sequence[str], cells: Sequence[NDArray[np.float64]]) -> list[Row]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, one in enumerate(maps):
        groups.setdefault(tuple(getattr(one, name) for name in same), []).append(index)
    return [
        _pair(maps[first], maps[second], cells[first], cells[second])
        for group in groups.values()
        for first, second in combinations(group, 2)
        if maps[first].corruption != maps[second].corruption
    ]


def _pair(first: Any, second: Any, left: NDArray[np.float64], right: NDArray[np.float64]) -> Row:
    both = np.isfinite(left) & np.isfinite(right)
    correlation, note = _spearman(left[both], right[both])
    return {
        **{name: getattr(first, name) for name in NAMED},
        "first": first.corruption,
        "second": second.corruption,
        "cells": int(both.sum()),
        "correlation": correlation,
        "note": note,
    }


def _spearman(left: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[float | None, str | None]:
    if left.size < FEWEST:
        return None, f"only {left.size} cells can be compared"
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return None, "all cells of a map are equal"
    return float(spearmanr(left, right).statistic), None
