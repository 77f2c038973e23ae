"""Metrics: each a small thing with a versioned name, found by looking through this folder's `METRICS`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache

from rome_engine.bench.metrics.metric import Metric
from rome_engine.bench.record import Record
from rome_engine.errors import BenchError

__all__ = ["Metric", "applicable", "metrics", "named"]

LONG = ("ge@1", "rs@1")
"""Those that take ten times as long as all others together: to be asked for by name."""


@cache
def metrics() -> dict[str, Metric]:
    """All metrics by name, in the order of their files' names."""
    found: dict[str, Metric] = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        for metric in getattr(importlib.import_module(f"{__name__}.{module}"), "METRICS", ()):
            found[metric.name] = metric
    return found


def named(names: Iterable[str]) -> Sequence[Metric]:
    """The metrics of these names; one without a version means its newest. Raises BenchError for one that is none."""
    known = metrics()
    chosen: dict[str, Metric] = {}
    for name in names:
        versions = [one for one in known if one == name or one.partition("@")[0] == name]
        if not versions:
            raise BenchError(f"there is no metric {name!r}: there are {', '.join(sorted(known))}")
        newest = max(versions, key=lambda one: int(one.partition("@")[2]))
        chosen[newest] = known[newest]
    return tuple(chosen.values())


def applicable(records: Iterable[Record]) -> tuple[str, ...]:
    """The names of the metrics that have something to measure in these records, but for the LONG ones."""
    open_ = {name: metric for name, metric in metrics().items() if name not in LONG}
    found = set()
    for record in records:
        there = {name for name, metric in open_.items() if any(True for _ in metric.asks(record))}
        found |= there
        open_ = {name: metric for name, metric in open_.items() if name not in there}
    return tuple(name for name in metrics() if name in found)
