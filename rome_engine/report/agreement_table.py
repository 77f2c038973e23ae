"""How far corruptions agree, as lines of text and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rome_engine.report.naming import NAMES, corruption_name, map_names, severed_name
from rome_engine.trace.agreement import agreement
from rome_engine.trace.average import Average
from rome_engine.trace.result import Trace

_RANKS = "1 where both corruptions order all states alike, 0 where their orders have nothing in common."
EXPLAINED = f"Spearman's rank correlation of two maps' cells, tokens from the subject on: {_RANKS}"
AVERAGE_EXPLAINED = (
    f"Spearman's rank correlation of two maps' mean effects by role and layer: {_RANKS} Both means are over the facts "
    "that all corruptions let localise."
)


def agreement_lines(traces: Sequence[Trace]) -> list[str]:
    """A line a pair of maps that differ in the corruption alone."""
    return [
        f"Agreement of corruptions, {name}: {first} and {second} {_shown(row)} (Spearman, {row['cells']} cells)"
        for name, first, second, row in _named(traces)
    ]


def agreement_rows(traces: Sequence[Trace]) -> list[list[str | float | int | None]]:
    """Map, two corruptions, correlation, cells, note."""
    return [
        [name, first, second, row["correlation"], row["cells"], row["note"] or ""]
        for name, first, second, row in _named(traces)
    ]


def average_agreement_lines(average: Average) -> list[str]:
    """A line a pair of averaged maps that differ in the corruption alone."""
    return [
        f"Agreement of corruptions, {name}: {first} and {second} {_shown(row)} "
        f"(Spearman, {row['cells']} roles and layers, n = {row['facts']} facts that all corruptions let localise)"
        for name, first, second, row in _average_named(average)
    ]


def average_agreement_rows(average: Average) -> list[list[str | float | int | None]]:
    """Map, two corruptions, facts, correlation, roles and layers, note."""
    return [
        [name, first, second, row["facts"], row["correlation"], row["cells"], row["note"] or ""]
        for name, first, second, row in _average_named(average)
    ]


def _average_named(average: Average) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    found = []
    for row in average.agreement:
        if row["metric"] != average.metric:
            continue
        named = [NAMES.get(row["kind"], row["kind"]) if row["head"] is None else f"Head {row['head']}"]
        named += [f"windows of {row['window']} layers"] * (row["window"] > 1)
        named += [severed_name(row["severed"])] * bool(row["severed"])
        found.append((", ".join(named), corruption_name(row["first"]), corruption_name(row["second"]), row))
    return found


def _named(traces: Sequence[Trace]) -> list[tuple[str, str, str, dict[str, Any]]]:
    rows = agreement(traces)
    if not rows:
        return []
    # One trace stands for each map whatever the corruption: its name then says only what else differs.
    maps: dict[tuple[Any, ...], Trace] = {}
    for one in traces:
        maps.setdefault(_map(vars(one)), one)
    same = traces[0].corruption
    names = dict(zip(maps, map_names([replace(one, corruption=same) for one in maps.values()]), strict=True))
    return [(names[_map(row)], corruption_name(row["first"]), corruption_name(row["second"]), row) for row in rows]


def _map(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("kind", "window", "head", "direction", "severed", "metric"))


def _shown(row: Mapping[str, Any]) -> str:
    return f"{row['correlation']:.2f}" if row["correlation"] is not None else f"– ({row['note']})"
