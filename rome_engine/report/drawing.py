"""What figures for print are made of: heat maps and curves, by matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from math import isfinite
from pathlib import Path
from textwrap import fill, wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from rome_engine.errors import StorageError
from rome_engine.files import suffix_among, write_whole
from rome_engine.report.curves import COLOURS, DASHES, MARKERS, Curves
from rome_engine.report.panel import Panel
from rome_engine.report.reading import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
DPI = 200
INK, FAINT = "#222222", "#777777"
TITLE_WIDTH, NOTE_WIDTH = 44, 56  # characters
# Text stays text in SVG and PDF; tokens are never read as formulas; the same trace gives the same bytes.
STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "rome_engine",
    "pdf.fonttype": 42,
    "text.usetex": False,
    "text.parse_math": False,
    "axes.linewidth": 0.6,
    "axes.unicode_minus": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
# Left out of the file, so that it does not change from day to day.
UNDATED: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}


def save_drawing(path: Path, size: tuple[float, float], draw: Callable[[Figure], None]) -> None:
    """Write what `draw` puts into a figure of this size in inches, whole or not at all.

    Raises StorageError for another suffix, where the file cannot be written, and where matplotlib is not installed.
    """
    suffix = suffix_among(path, FIGURE_SUFFIXES)
    try:
        from matplotlib import rc_context  # heavy and optional: only those who draw pay for it
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StorageError("figures need matplotlib: pip install 'rome-engine[report]'") from error
    content = BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
        draw(figure)
        figure.savefig(content, format=suffix[1:], dpi=DPI, metadata=UNDATED[suffix])
    write_whole(path, content.getvalue())


def draw_panel(figure: Figure, axes: Axes, panel: Panel, *, rows: bool = True) -> None:
    """A heat map with its scale; `rows` False leaves the rows' labels to the panel beside."""
    from matplotlib.colors import ListedColormap

    colours = ListedColormap(panel.shades(256)).with_extremes(bad="white")
    count, layers = panel.scores.shape
    # A mesh and not an image, so that cells are vectors; edges in the faces' colour hide the hairlines between them.
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(panel.scores),
        cmap=colours,
        vmin=panel.bottom,
        vmax=panel.top,
        edgecolors="face",
        linewidth=0.15,
    )
    if panel.exact is not None:
        at, layer = np.nonzero(np.isfinite(panel.exact))
        axes.scatter(layer + 0.5, at + 0.5, s=5, c=INK, edgecolors="white", linewidths=0.4, zorder=3)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(count) + 0.5, labels=list(panel.rows) if rows else [""] * count)
    for tick, bold in zip(axes.get_yticklabels(), panel.bold, strict=True):
        tick.set_fontweight("bold" if bold else "normal")
    layer_ticks(axes, layers, 0.5)
    axes.set_xlabel(panel.axis)
    frame(axes)
    notes = [] if panel.warning is None else [panel.warning.partition(". ")[0]]
    head(axes, panel.caption, panel.subtitle, *notes, *panel.notes)
    scale(figure.colorbar(mesh, ax=axes, fraction=0.06, pad=0.02, aspect=18), panel)


def draw_curves(axes: Axes, curves: Curves) -> list[Line2D]:
    """Lines with their bands over layers, zero and the marks across; returns the lines for a legend."""
    lines = []
    axes.axhline(0, color=INK, linewidth=0.7, zorder=1)
    for level, words, inside in curves.placed_marks():
        if inside:
            axes.axhline(level, color=FAINT, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
        low, high = curves.limits
        below = level > (low + high) / 2
        axes.annotate(
            words, (1, level), (-2, -2 if below else 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="top" if below else "bottom", fontsize=6.5, color=FAINT,
        )  # fmt: skip
    layers = 1
    for curve in curves.curves:
        layers = len(curve.values)
        at, colour = np.arange(layers), COLOURS[curve.style][0]
        if curve.band is not None:
            axes.fill_between(at, *curve.band, color=colour, alpha=0.16, linewidth=0, zorder=2)
        dashes = DASHES[curve.style]
        lines += axes.plot(
            at, curve.values, color=colour, linewidth=1.3, linestyle=(0, dashes) if dashes else "-",
            marker=MARKERS[curve.style], markersize=3.4, markevery=(curve.style % step(layers), step(layers)),
            markeredgecolor="white", markeredgewidth=0.4, label=curve.name, zorder=3,
        )  # fmt: skip
    axes.set_xlim(-0.5, layers - 0.5)
    axes.set_ylim(*curves.limits)
    layer_ticks(axes, layers, 0.0)
    axes.set_xlabel(curves.axis)
    axes.set_ylabel(curves.measure)
    frame(axes)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return lines


def head(axes: Axes, title: str, *below: str) -> None:
    """A title flush left, and under it in smaller letters what else is to be said."""
    small = "\n".join(note_lines(*below))
    axes.set_title(fill(title, TITLE_WIDTH), fontsize=9, color=INK, loc="left", pad=6 + 9.2 * len(small.splitlines()))
    if small:
        below_title = axes.annotate(
            small, (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points",
            ha="left", va="bottom", fontsize=7, color=FAINT, linespacing=1.15,
        )  # fmt: skip
        below_title.set_in_layout(False)  # the title's distance holds its room; a long line narrows no map


def note_lines(*texts: str) -> list[str]:
    """Texts in lines of a panel's width, broken between their parts before they are broken within one."""
    lines: list[str] = []
    for text in filter(None, texts):
        line = ""
        for part in text.split(" · "):
            joined = f"{line} · {part}" if line else part
            if line and len(joined) > NOTE_WIDTH:
                lines += wrap(line, NOTE_WIDTH)
                joined = part
            line = joined
        lines += wrap(line, NOTE_WIDTH)
    return lines


def layer_ticks(axes: Axes, layers: int, offset: float) -> None:
    """Numbers of layers, as many as can be read."""
    shown = np.arange(0, layers, step(layers))
    axes.set_xticks(shown + offset, labels=[str(layer) for layer in shown])


def step(layers: int) -> int:
    """The round distance that leaves at most eight numbers."""
    return next((each for each in (1, 2, 5, 10, 20, 50, 100) if layers / each <= 8), layers)


def frame(axes: Axes) -> None:
    """Thin grey lines."""
    axes.tick_params(length=2.5, color=FAINT)
    axes.spines[:].set_color(FAINT)


def scale(bar: Colorbar, panel: Panel) -> None:
    """The measure's name and, beside the ticks, the marks; one beyond the scale stands at its end."""
    bar.outline.set_linewidth(0.6)
    bar.ax.tick_params(length=2.5, labelsize=7, color=FAINT)
    bar.set_label(panel.measure, labelpad=3)
    beyond = {True: 0, False: 0}
    for name, value in panel.marks:
        if not isfinite(value):
            continue
        if panel.bottom <= value <= panel.top:
            bar.ax.axhline(value, color=INK, linewidth=0.9)
            bar.ax.annotate(
                name, (0, value), (-2, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", va="center", fontsize=6.5, color=INK,
            )  # fmt: skip
        else:
            above = value > panel.top
            away = 4 + 8 * beyond[above]
            beyond[above] += 1
            bar.ax.annotate(
                f"{name} {number(value)} {'↑' if above else '↓'}", (0.5, 1 if above else 0),
                (0, away if above else -away), xycoords="axes fraction", textcoords="offset points",
                ha="center", va="bottom" if above else "top", fontsize=6.5, color=INK,
            )  # fmt: skip
