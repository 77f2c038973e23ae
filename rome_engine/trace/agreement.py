"""How far maps of different corruptions agree (Zhang & Nanda 2023 found that they can localise differently)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from rome_engine.trace.result import Trace

FEWEST = 3
"""Cells below which a rank correlation says nothing."""
SAME = (
    "model",
    "prompt",
    "subject",
    "tokens",
    "answer",
    "foil",
    "kind",
    "window",
    "head",
    "direction",
    "severed",
    "metric",
)


def agreement(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Spearman's rank correlation of the maps' cells, for each pair of traces that differ in the corruption alone.

    Only tokens from the subject on count, because nothing before it was corrupted, and cells that are finite in both
    maps. A row a pair: kind, window, head, direction, severed, metric, `first` and `second` (the corruptions), `cells`
    (their number), `correlation`, and `note`, which says why a correlation is None. Cells of one map depend on
    one another, so that no significance is given.
    """
    groups: dict[tuple[Any, ...], list[Trace]] = {}
    for one in traces:
        groups.setdefault(tuple(getattr(one, name) for name in SAME), []).append(one)
    return [
        _pair(first, second)
        for group in groups.values()
        for first, second in combinations(group, 2)
        if first.corruption != second.corruption
    ]


def _pair(first: Trace, second: Trace) -> dict[str, Any]:
    begin = first.subject_range[0]
    left, right = first.scores[begin:], second.scores[begin:]
    both = np.isfinite(left) & np.isfinite(right)
    correlation, note = _spearman(left[both], right[both])
    shared = {name: getattr(first, name) for name in ("kind", "window", "head", "direction", "severed", "metric")}
    return {
        **shared,
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
