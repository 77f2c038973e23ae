"""Traces as a figure for print: one panel a trace, vector text, by matplotlib without its global state."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rome_engine.errors import StorageError, TraceError
from rome_engine.files import suffix_among, write_whole
from rome_engine.report.colour import ramp
from rome_engine.report.reading import NAMES, labels, limits, number, too_small, visible
from rome_engine.trace.result import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")
ACROSS = 3
PANEL_WIDTH, ROW_HEIGHT, FURNITURE = 4.1, 0.2, 1.35  # inches
DPI = 200
INK, FAINT = "#222222", "#777777"
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


def save_figure(traces: Sequence[Trace], path: Path) -> None:
    """Draw the traces side by side, at most three across, into a .png, .svg or .pdf file.

    The file is written whole or not at all. Raises TraceError for no traces; StorageError for another suffix, where
    the file cannot be written, and where matplotlib is not installed.
    """
    suffix = suffix_among(path, FIGURE_SUFFIXES)
    if not traces:
        raise TraceError("there is no trace to draw: give at least one")
    try:
        from matplotlib import rc_context  # heavy and optional: only those who draw pay for it
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StorageError("figures need matplotlib: pip install 'rome-engine[report]'") from error

    content = BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=_size(traces), dpi=DPI, layout="constrained", facecolor="white")
        _draw(figure, traces)
        figure.savefig(content, format=suffix[1:], dpi=DPI, metadata=UNDATED[suffix])
    write_whole(path, content.getvalue())


def _size(traces: Sequence[Trace]) -> tuple[float, float]:
    """Width and height in inches."""
    tallest = max(len(trace.tokens) for trace in traces)
    down = ceil(len(traces) / ACROSS)
    return PANEL_WIDTH * min(ACROSS, len(traces)), down * (FURNITURE + ROW_HEIGHT * tallest)


def _draw(figure: Figure, traces: Sequence[Trace]) -> None:
    across = min(ACROSS, len(traces))
    grid = figure.subplots(ceil(len(traces) / across), across, squeeze=False)
    for panel, trace in zip(grid.flat, traces, strict=False):
        _panel(figure, panel, trace)
    for empty in grid.flat[len(traces) :]:
        empty.set_axis_off()


def _panel(figure: Figure, panel: Axes, trace: Trace) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    small = too_small(trace)
    steps = ramp("none" if small else trace.kind)
    colours = LinearSegmentedColormap.from_list(trace.kind, list(steps), N=256).with_extremes(bad="white")
    bottom, top = limits(trace)
    tokens, layers = trace.scores.shape
    # A mesh and not an image, so that cells are vectors; edges in the faces' colour hide the hairlines between them.
    mesh = panel.pcolormesh(
        np.ma.masked_invalid(trace.scores), cmap=colours, vmin=bottom, vmax=top, edgecolors="face", linewidth=0.15
    )
    panel.invert_yaxis()
    panel.set_yticks(np.arange(tokens) + 0.5, labels=list(labels(trace)))
    begin, end = trace.subject_range
    for tick in panel.get_yticklabels()[begin:end]:
        tick.set_fontweight("bold")
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, layers) if layers / step <= 8)
    shown = np.arange(0, layers, step)
    panel.set_xticks(shown + 0.5, labels=[str(layer) for layer in shown])
    panel.set_xlabel(_layer_axis(trace))
    panel.tick_params(length=2.5, color=FAINT)
    panel.spines[:].set_color(FAINT)
    title = panel.set_title(_title(trace), fontsize=9, color=INK, loc="left", wrap=True)
    if small:
        title.set_text(
            f"{_title(trace)}\nTotal effect {number(trace.total_effect, signed=True)}: too small to localise"
        )
    _scale(figure.colorbar(mesh, ax=panel, fraction=0.06, pad=0.02, aspect=18), trace)


def _title(trace: Trace) -> str:
    window = "" if trace.window == 1 else f", windows of {trace.window} layers"
    return f"{NAMES.get(trace.kind, trace.kind)} restored{window}"


def _layer_axis(trace: Trace) -> str:
    return "Restored layer" if trace.window == 1 else "Centre of the restored layers"


def _scale(bar: Colorbar, trace: Trace) -> None:
    """The answer's name and, beside the ticks, where the two baselines lie; one beyond the scale stands at its end."""
    bottom, top = limits(trace)
    bar.outline.set_linewidth(0.6)
    bar.ax.tick_params(length=2.5, labelsize=7, color=FAINT)
    bar.set_label(f"p({visible(trace.answer)})", labelpad=3)
    for name, value in (("low", trace.low), ("high", trace.high)):
        if not isfinite(value):
            continue
        if bottom <= value <= top:
            bar.ax.axhline(value, color=INK, linewidth=0.9)
            bar.ax.annotate(
                name, (0, value), (-2, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", va="center", fontsize=6.5, color=INK,
            )  # fmt: skip
        else:
            above = value > top
            bar.ax.annotate(
                f"{name} {number(value)} {'↑' if above else '↓'}", (0.5, 1 if above else 0), (0, 4 if above else -4),
                xycoords="axes fraction", textcoords="offset points",
                ha="center", va="bottom" if above else "top", fontsize=6.5, color=INK,
            )  # fmt: skip
