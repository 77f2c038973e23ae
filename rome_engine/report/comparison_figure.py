"""A comparison as a figure for print: headline figures with their intervals, differences, and what is retained."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from rome_engine.bench.comparison import Comparison
from rome_engine.report.comparison_dots import Dots, difference_dots, figure_dots
from rome_engine.report.comparison_retention import retention_curves
from rome_engine.report.comparison_words import headline
from rome_engine.report.curves import COLOURS
from rome_engine.report.drawing import FAINT, INK, draw_curves, frame, head, save_drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 2
WIDTH, ROW, FURNITURE, LINES = 4.6, 0.2, 0.95, 2.7  # inches, of a picture


def save_comparison_figure(comparison: Comparison, path: Path) -> None:
    """Draw the headline figures into a .png, .svg or .pdf file, two pictures across.

    The file is written whole or not at all. Raises StorageError for another suffix, where the file cannot be written,
    and where matplotlib is not installed.
    """
    layout = _Layout(comparison)
    save_drawing(path, (WIDTH * ACROSS, sum(layout.heights)), layout.draw)


class _Layout:
    """Figures and differences side by side, a row a figure, and then lines of retention."""

    def __init__(self, comparison: Comparison) -> None:
        figures, away = figure_dots(comparison), difference_dots(comparison)
        shown = [figure.name for figure in headline(comparison) if figure.name in figures]
        self.dots = [(figures[name], away.get(name)) for name in shown]
        self.curves = retention_curves(comparison)
        heights = [FURNITURE + ROW * max(len(one.dots) for one in pair if one) for pair in self.dots]
        self.heights = heights + [LINES] * -(-len(self.curves) // ACROSS)

    def draw(self, figure: Figure) -> None:
        """Put everything into the figure."""
        grid = figure.subplots(len(self.heights), ACROSS, squeeze=False, height_ratios=self.heights)
        for axes, pair in zip(grid, self.dots, strict=False):
            for place, dots in zip(axes, pair, strict=True):
                if dots is None:
                    place.set_axis_off()
                else:
                    _draw_dots(place, dots)
        rest = grid[len(self.dots) :].ravel()
        for axes, curves in zip_longest(rest, self.curves):
            if curves is None:
                axes.set_axis_off()
            else:
                head(axes, curves.caption)
                lines = draw_curves(axes, curves)
                axes.legend(handles=lines, frameon=False, fontsize=6.5, handlelength=3.4, loc="lower left")


def _draw_dots(axes: Axes, dots: Dots) -> None:
    colour = COLOURS[0][0]
    if dots.zero:
        axes.axvline(0, color=INK, linewidth=0.7, zorder=1)
    for row, dot in enumerate(dots.dots):
        if dot.low is not None and dot.high is not None:
            axes.plot([dot.low, dot.high], [row, row], color=colour, linewidth=1.3, zorder=2)
        if dot.ghost is not None:
            axes.scatter([dot.ghost], [row], s=16, facecolors="none", edgecolors=FAINT, linewidths=0.9, zorder=2)
        axes.scatter(
            [dot.value], [row], s=20, facecolors=colour if dot.filled else "white", edgecolors=colour, zorder=3
        )
    axes.set_yticks(range(len(dots.dots)), labels=[dot.short for dot in dots.dots])
    axes.set_ylim(len(dots.dots) - 0.4, -0.6)
    axes.set_xlim(*dots.limits)
    axes.set_xlabel(dots.axis)
    head(axes, dots.caption, dots.note)
    frame(axes)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
