"""Averages over facts as a figure for print: maps, curves with their bands, and where single facts peak."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from rome_engine.errors import TraceError
from rome_engine.files import suffix_among
from rome_engine.report.average_view import average_curves, average_panels, bands, counted, head_panels, peak_panels
from rome_engine.report.drawing import FIGURE_SUFFIXES, INK, draw_curves, draw_panel, head, note_lines, save_drawing
from rome_engine.report.panel import Panel
from rome_engine.trace.average import Average

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

ACROSS = 3
FIRST, OTHER, ROW_HEIGHT = 4.9, 3.5, 0.2  # inches; the first column has the roles' names
MAP_FURNITURE, CURVES, PEAKS, HEAD, LEGEND = 1.2, 2.3, 0.85, 0.6, 0.45  # inches
LETTERS = 13.5  # an inch


def save_average_figure(average: Average, path: Path) -> None:
    """Draw the averages into a .png, .svg or .pdf file: at most three maps across, below each its curves and peaks.

    More than six maps of heads become one of heads by layers. The file is written whole or not at all. Raises
    TraceError for no maps; StorageError for another suffix, where the file cannot be written, and where matplotlib is
    not installed.
    """
    suffix_among(path, FIGURE_SUFFIXES)
    if not average.maps:
        raise TraceError("there is no map to draw: average at least one")
    layout = _Layout(average)
    save_drawing(path, (layout.width, layout.height), layout.draw)


class _Layout:
    """Blocks of maps side by side, each block with a row of maps, of curves and of peaks; then the heads."""

    def __init__(self, average: Average) -> None:
        self.average = average
        self.maps, self.curves, self.peaks = average_panels(average), average_curves(average), peak_panels(average)
        self.heads = head_panels(average)
        widest = max(len(self.maps), len(self.heads))
        self.across = 2 if widest == 4 else min(ACROSS, widest)
        self.width = FIRST + OTHER * (self.across - 1)
        said = f"{counted(average)} {bands(average)}"
        self.said = fill(said, int(LETTERS * self.width))
        rows = max([len(panel.rows) for panel in self.maps], default=0)
        notes = 0.14 * max([_lines(panel) for panel in self.maps], default=0)
        self.rows = [MAP_FURNITURE + notes + ROW_HEIGHT * rows, CURVES, PEAKS + ROW_HEIGHT * rows]
        self.blocks = [self.maps[at : at + self.across] for at in range(0, len(self.maps), self.across)]
        self.head_rows = [
            MAP_FURNITURE + 0.3 + ROW_HEIGHT * max(len(panel.rows) for panel in self.heads[at : at + self.across])
            for at in range(0, len(self.heads), self.across)
        ]
        self.top = HEAD + 0.15 * len(self.said.splitlines())

    @property
    def heights(self) -> list[float]:
        """Of every row, in inches."""
        return self.rows * len(self.blocks) + self.head_rows

    @property
    def height(self) -> float:
        """Of the figure, in inches."""
        return self.top + sum(self.heights) + (LEGEND if self.maps else 0)

    def draw(self, figure: Figure) -> None:
        """Put everything into the figure."""
        figure.suptitle(
            f"{self.average.model}: effects averaged over facts of {self.average.source}\n{self.said}",
            x=0.01, ha="left", fontsize=8, color=INK,
        )  # fmt: skip
        count = len(self.heights)
        grid = figure.subplots(count, self.across, squeeze=False, height_ratios=self.heights)
        lines: list[Line2D] = []
        for index, axes in enumerate(grid[: 3 * len(self.blocks)].reshape(-1, 3, self.across)):
            for column in range(self.across):
                at = index * self.across + column
                if at < len(self.maps):
                    lines = self._column(figure, list(axes[:, column]), at, first=column == 0) or lines
                else:
                    for empty in axes[:, column]:
                        empty.set_axis_off()
        rest = grid[3 * len(self.blocks) :].ravel()
        for axes, panel in zip(rest, self.heads, strict=False):
            draw_panel(figure, axes, panel)
        for empty in rest[len(self.heads) :]:
            empty.set_axis_off()
        if lines:
            figure.legend(
                handles=lines, loc="outside lower left", ncols=ceil(len(lines) / (2 if self.across < 3 else 1)),
                frameon=False, fontsize=7.5, handlelength=3.4, columnspacing=1.6,
            )  # fmt: skip

    def _column(self, figure: Figure, axes: list[Axes], at: int, *, first: bool) -> list[Line2D]:
        """One map, its curves and its peaks, from top to bottom."""
        panel, curves, peaks = self.maps[at], self.curves[at], self.peaks[at]
        draw_panel(figure, axes[0], panel, rows=first or panel.rows != self.maps[at - 1].rows)
        lines = draw_curves(axes[1], curves)
        if not first:
            axes[1].set_ylabel("")
        draw_panel(figure, axes[2], _bare(peaks), rows=first or panel.rows != self.maps[at - 1].rows)
        head(axes[2], "Where single facts peak")
        return lines


def _bare(panel: Panel) -> Panel:
    """Without what the map above says."""
    return replace(panel, subtitle="", warning=None, kind=panel.ramp)


def _lines(panel: Panel) -> int:
    return len(note_lines(panel.subtitle, *panel.notes))
