"""Curves over layers: the modified graphs of one token, and the roles of averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from rome_engine.report.naming import caption, layer_axis, measure, severed_name
from rome_engine.report.panel import Panel, subtitles, trace_panel
from rome_engine.report.reading import asked, labels, limits, number, too_small
from rome_engine.trace.result import Trace

Array = NDArray[np.float64]

# Okabe & Ito (2008), told apart in every kind of colour blindness, without the yellow that fades on white; the second
# of each pair, told apart likewise, is for a dark ground. Dashes and markers tell the lines apart in grey, too.
COLOURS = (
    ("#0072b2", "#6f8fd6"),
    ("#d55e00", "#c77a1a"),
    ("#009e73", "#3cbd92"),
    ("#cc79a7", "#f3a0e0"),
    ("#e69f00", "#d8e04a"),
    ("#222222", "#f4f2ee"),
)
DASHES = ((), (5, 1.5), (1.5, 1.5), (5, 1.5, 1.5, 1.5), (8, 2), (3, 1, 1, 1, 1, 1))
"""Lengths of ink and gap, in units of a line's width."""
FARTHEST_MARK = 2.5
"""A mark beyond this many times the lines' greatest value would flatten them."""
MARKERS = ("o", "s", "^", "D", "v", "X")
"""Circle, square, triangle up, diamond, triangle down, cross: the names are matplotlib's."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One line over layers; `band` are its lower and upper end. `style` counts in COLOURS, DASHES and MARKERS."""

    name: str
    values: Array
    style: int
    band: tuple[Array, Array] | None = None


@dataclass(frozen=True, eq=False)
class Curves:
    """Lines over layers in one picture.

    marks: levels that are drawn across, with their names; one far beyond the lines is named at the edge. least: the
    least span of the axis of values, so that noise does not look like an effect. fixed: its ends, where pictures share
    them.
    """

    caption: str
    subtitle: str
    curves: tuple[Curve, ...]
    axis: str
    measure: str
    marks: tuple[tuple[str, float], ...] = ()
    least: float = 0.05
    fixed: tuple[float, float] | None = None
    note: str = ""
    warning: str | None = None

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest value to be drawn, zero and near marks among them, with room around."""
        if self.fixed is not None:
            return self.fixed
        values = [np.zeros(1)]
        for curve in self.curves:
            values += [curve.values, *(curve.band or ())]
        shown = np.concatenate(values)
        shown = shown[np.isfinite(shown)]
        low, high = float(shown.min()), float(shown.max())
        if high - low < self.least:
            low, high = (low, low + self.least) if high >= -low else (high - self.least, high)
        near = [value for _, value in self.marks if abs(value) <= FARTHEST_MARK * max(high, -low)]
        low, high = min(low, *near, 0.0), max(high, *near, 0.0)
        room = 0.05 * (high - low)
        return low - room, high + room

    def placed_marks(self) -> list[tuple[float, str, bool]]:
        """(level, words, whether it is within the picture) of every mark that is known."""
        low, high = self.limits
        placed = []
        for name, value in self.marks:
            if np.isfinite(value):
                inside = low <= value <= high
                arrow = "" if inside else " ↑" if value > high else " ↓"
                level = min(high, max(low, value))
                placed.append((level, f"{name} {number(value, signed=True)}{arrow}", inside))
        return placed


def severed_groups(traces: Sequence[Trace]) -> list[list[Trace]]:
    """Maps of one and the same token that differ in the severed graph alone."""

    def key(one: Trace) -> tuple[str, ...]:
        parts = (one.prompt, one.answer, one.kind, one.window, one.head, one.corruption, one.direction, one.metric)
        return tuple(str(part) for part in (*parts, asked(one)))

    lone = sorted((one for one in traces if len(asked(one)) == 1), key=key)
    groups = [list(group) for _, group in groupby(lone, key)]
    return [group for group in groups if 1 < len({one.severed for one in group}) == len(group) <= len(COLOURS)]


def severed_curves(group: Sequence[Trace], companions: Sequence[Trace]) -> Curves:
    """The effect of one token's states over layers, one line a graph (Meng et al. 2022, figure 3)."""
    first = group[0]
    row = asked(first)[0]
    curves = []
    for style, one in enumerate(group):
        effect, band = one.indirect_effect[row], None
        if one.deviation is not None and one.samples > 1:
            error = one.deviation[row] / np.sqrt(one.samples)
            band = (effect - error, effect + error)
        curves.append(Curve(severed_name(one.severed), effect, style, band))
    spread = any(curve.band is not None for curve in curves)
    return Curves(
        caption=f"{caption(first)} at “{labels(first)[row]}”",
        subtitle=" · ".join(part for part in subtitles(first, companions) if part != severed_name(first.severed)),
        curves=tuple(curves),
        axis=layer_axis(first),
        measure=f"Indirect effect on {measure(first)}",
        marks=(("total effect", first.total_effect),),
        least=float(np.subtract(*limits(first)[::-1])),
        note=f"Bands: ± one standard error over {first.samples} noise draws." if spread else "",
        warning=too_small(first),
    )


def severed_panel(group: Sequence[Trace], companions: Sequence[Trace]) -> Panel:
    """The same as a heat map, a row a graph, for where no line can be drawn."""
    row = asked(group[0])[0]
    ends = [limits(one) for one in group]
    plain = trace_panel(group[0], companions)
    curves = severed_curves(group, companions)
    return replace(
        plain,
        name=curves.caption,
        heading=f"{plain.heading} at “{labels(group[0])[row]}”",
        caption=curves.caption,
        subtitle=curves.subtitle,
        rows=tuple(curve.name for curve in curves.curves),
        bold=(False,) * len(group),
        scores=np.stack([one.scores[row] for one in group]),
        bottom=min(low for low, _ in ends),
        top=max(high for _, high in ends),
        notes=(),
        unit="graph",
    )
