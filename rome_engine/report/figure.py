"""Traces as a figure for print: a panel a map, one for the modified graphs, one for many heads."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from rome_engine.errors import TraceError
from rome_engine.files import suffix_among
from rome_engine.report.arrangement import arrange
from rome_engine.report.curves import Curves
from rome_engine.report.drawing import DPI, FIGURE_SUFFIXES, draw_curves, draw_panel, head, save_drawing
from rome_engine.report.panel import Panel
from rome_engine.trace.result import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DPI", "FIGURE_SUFFIXES", "PANEL_WIDTH", "save_figure", "save_parts"]

ACROSS = 3
PANEL_WIDTH, ROW_HEIGHT, FURNITURE, LEAST_ROWS, CURVE_ROWS = 4.1, 0.2, 1.35, 3, 10  # inches; rows


def save_figure(traces: Sequence[Trace], path: Path) -> None:
    """Draw the traces side by side, at most three across, into a .png, .svg or .pdf file.

    Maps of one token that differ in the severed graph become curves; more than six maps of heads become one of heads by
    layers. Tokens that were not asked for are left out. The file is written whole or not at all.
    Raises TraceError for no traces; StorageError for another suffix, where the file cannot be written, and where
    matplotlib is not installed.
    """
    suffix_among(path, FIGURE_SUFFIXES)
    if not traces:
        raise TraceError("there is no trace to draw: give at least one")
    arranged = arrange(traces)
    save_parts([*arranged.curves, *arranged.heads, *arranged.maps], path)


def save_parts(parts: Sequence[Panel | Curves], path: Path) -> None:
    """Draw maps and curves side by side, at most three across, as `save_figure` does; raises as it does."""
    across = min(ACROSS, len(parts))
    heights = [
        FURNITURE + ROW_HEIGHT * max(_rows(part) for part in parts[start : start + across])
        for start in range(0, len(parts), across)
    ]

    def draw(figure: Figure) -> None:
        grid = figure.subplots(ceil(len(parts) / across), across, squeeze=False, height_ratios=heights)
        for axes, part in zip(grid.flat, parts, strict=False):
            _draw(figure, axes, part)
        for empty in grid.flat[len(parts) :]:
            empty.set_axis_off()

    save_drawing(path, (PANEL_WIDTH * across, sum(heights)), draw)


def _rows(part: Panel | Curves) -> int:
    """How high a part is, in rows of a map."""
    return CURVE_ROWS if isinstance(part, Curves) else max(LEAST_ROWS, len(part.rows))


def _draw(figure: Figure, axes: Axes, part: Panel | Curves) -> None:
    if isinstance(part, Panel):
        draw_panel(figure, axes, part)
        return
    draw_curves(axes, part)
    axes.legend(frameon=False, fontsize=7, handlelength=3.6, loc="best")
    warning = "" if part.warning is None else part.warning.partition(". ")[0]
    head(axes, part.caption, part.subtitle, warning, part.note)
