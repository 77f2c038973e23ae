"""A heat map as every view draws it: rows of cells over layers, whatever the rows are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from rome_engine.report.colour import ramp
from rome_engine.report.naming import caption, heading, layer_axis, map_names, measure, qualifiers
from rome_engine.report.reading import (
    Cell,
    asked,
    base,
    labels,
    limits,
    not_asked,
    number,
    peaks,
    too_small,
)
from rome_engine.trace.average_map import FALLING
from rome_engine.trace.result import Trace

Array = NDArray[np.float64]
FINEST = 512


@dataclass(frozen=True, eq=False)
class Panel:
    """One heat map.

    name: short, and no companion's. heading, caption: what was exchanged, as a sentence and as a title; `subtitle`
    what else tells it from others. rows, bold: a label a row. scores: (rows, layers). kind: names the colours. bottom,
    top: the ends of the scale. base: the value of a cell without effect; an effect is sign * (score - base).
    exact: the exact values of verified cells, NaN elsewhere, where scores are approximate; such cells are marked.
    orientation: -1 for metrics that fall where the answer comes back. diverging: colours start at `base` and tell
    effects of both signs apart. marks: names and values beside the scale. bands: an interval of each score.
    warning: why no cell should be read as a location.
    """

    name: str
    heading: str
    caption: str
    subtitle: str
    rows: tuple[str, ...]
    bold: tuple[bool, ...]
    scores: Array
    kind: str
    bottom: float
    top: float
    base: float
    measure: str
    axis: str
    sign: int = 1
    orientation: int = 1
    diverging: bool = False
    marks: tuple[tuple[str, float], ...] = ()
    bands: tuple[Array, Array] | None = None
    exact: Array | None = None
    warning: str | None = None
    notes: tuple[str, ...] = ()
    unit: str = "token"

    @property
    def rising(self) -> bool:
        """Whether strong cells have great values."""
        return self.sign * self.orientation > 0

    @property
    def ramp(self) -> str:
        """The name of the colours: grey where no cell should be read as a location."""
        return "none" if self.warning else self.kind

    def strongest(self, count: int = 3) -> tuple[Cell, ...]:
        """The strongest cells of the rows that peak highest; `position` is the row."""
        return tuple(
            Cell(
                row, layer, self.rows[row], float(self.scores[row, layer]),
                self.sign * (float(self.scores[row, layer]) - self.base),
            )
            for row, layer in peaks(self.scores if self.rising else -self.scores, count)
        )  # fmt: skip

    def found(self) -> str | None:
        """The strongest cells in a sentence, with their intervals where there are any; None where none is finite."""
        named = [
            f"“{cell.label}” layer {cell.layer}: {number(cell.score)}{self._beside(cell.position, cell.layer)}"
            for cell in self.strongest()
        ]
        which = "Strongest cells" if self.exact is None else "Strongest cells by approximation"
        return f"{which}, by {self.unit}: " + " · ".join(named) if named else None

    def _beside(self, row: int, layer: int) -> str:
        """What is said of a score besides: its interval, or its exact value."""
        if self.bands is not None:
            return f" [{', '.join(number(float(side[row, layer])) for side in self.bands)}]"
        if self.exact is not None:
            exact = float(self.exact[row, layer])
            return f" (exactly {number(exact)})" if isfinite(exact) else " (not verified)"
        return ""

    def shade(self, *, dark: bool = False) -> Callable[[float], str]:
        """The colour of a value, for a light or a dark ground."""
        positive, negative = (ramp(self.ramp, FINEST, dark=dark, negative=sign) for sign in (False, True))
        towards = self.sign * self.orientation
        start = self.base if self.diverging else self.bottom if towards > 0 else self.top
        farthest = max(abs(self.top - start), abs(self.bottom - start)) or 1.0

        def colour(value: float) -> str:
            share = towards * (value - start) / farthest
            place = round(min(1.0, abs(share)) * (FINEST - 1))
            return positive[place] if share >= 0 else negative[place]

        return colour

    def shades(self, steps: int) -> list[str]:
        """The colours of `steps` values evenly spaced from bottom to top, on a light ground."""
        colour = self.shade()
        return [colour(value) for value in np.linspace(self.bottom, self.top, steps).tolist()]


def trace_panel(trace: Trace, companions: Sequence[Trace] = (), name: str | None = None) -> Panel:
    """The panel of one trace, named so that it is told from its companions."""
    rows, names, (begin, end) = asked(trace), labels(trace), trace.subject_range
    bottom, top = limits(trace)
    return Panel(
        name=name or map_names([trace])[0],
        heading=heading(trace),
        caption=caption(trace),
        subtitle=" · ".join(subtitles(trace, companions or [trace])),
        rows=tuple(names[row] for row in rows),
        bold=tuple(begin <= row < end for row in rows),
        scores=trace.scores[list(rows)],
        kind=trace.kind,
        bottom=bottom,
        top=top,
        base=base(trace),
        measure=measure(trace),
        axis=layer_axis(trace),
        sign=1 if trace.direction == "restore" else -1,
        orientation=-1 if trace.metric in FALLING else 1,
        diverging=bool(np.isfinite(base(trace))),
        marks=(("low", trace.low), ("high", trace.high)) if trace.metric not in FALLING else
              (("clean", trace.high), ("corrupted", trace.low)),
        warning=too_small(trace),
        notes=tuple(filter(None, [not_asked(trace)])),
    )  # fmt: skip


def subtitles(trace: Trace, companions: Sequence[Trace]) -> list[str]:
    """What a title leaves out: the windows are in it."""
    return [part for part in qualifiers(trace, companions, unusual=True) if not part.startswith("window")]


def trace_panels(traces: Sequence[Trace]) -> list[Panel]:
    """A panel a trace."""
    return [trace_panel(trace, traces, name) for trace, name in zip(traces, map_names(traces), strict=True)]
