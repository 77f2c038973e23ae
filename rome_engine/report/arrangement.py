"""What is drawn of several traces: their maps, and in the place of many alike one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rome_engine.report.curves import Curves, severed_curves, severed_groups, severed_panel
from rome_engine.report.heads import head_groups, head_panel
from rome_engine.report.naming import map_names
from rome_engine.report.panel import Panel, trace_panel
from rome_engine.trace.result import Trace


@dataclass(frozen=True, eq=False)
class Arrangement:
    """curves: modified graphs, each also as a panel in `graphs`. heads: many heads as one panel. maps: all others.

    Each map comes with its trace; `head_maps` are those that `heads` stand for.
    """

    curves: tuple[Curves, ...]
    graphs: tuple[Panel, ...]
    heads: tuple[Panel, ...]
    maps: tuple[Panel, ...]
    traces: tuple[Trace, ...]
    head_maps: tuple[Trace, ...]


def arrange(traces: Sequence[Trace]) -> Arrangement:
    """Sort traces into curves, heads and maps."""
    severed, heads = severed_groups(traces), head_groups(traces)
    curved = {id(one) for group in severed for one in group}
    compact = {id(one) for group in heads for one in group}
    names = map_names(traces)
    single = [
        (one, name) for one, name in zip(traces, names, strict=True) if id(one) not in curved and id(one) not in compact
    ]
    return Arrangement(
        curves=tuple(severed_curves(group, traces) for group in severed),
        graphs=tuple(severed_panel(group, traces) for group in severed),
        heads=tuple(head_panel(group, traces) for group in heads),
        maps=tuple(trace_panel(one, traces, name) for one, name in single),
        traces=tuple(one for one, _ in single),
        head_maps=tuple(one for one in traces if id(one) in compact),
    )
