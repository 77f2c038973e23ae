"""A trace as a heat map in the terminal: one line a token, layers from left to right."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from rome_engine.report.colour import ramp
from rome_engine.report.reading import heading, labels, limits, number, strongest, too_small, visible
from rome_engine.report.terminal_cells import Grid, Painter
from rome_engine.trace.result import Trace

LONGEST_LABEL = 18
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
PLAIN = str.maketrans(
    {"–": "-", "−": "-", "·": "|", "∅": "?", "↵": "\\", "␣": "_", "⇥": ">", "…": "~", "“": '"', "”": '"'}
)


def heat_map(trace: Trace, width: int | None = None) -> RenderableType:
    """The trace's scores as a Rich renderable, at most `width` columns wide (None: as wide as the console).

    On a colour terminal every cell is a block of colour. Without colour (NO_COLOR, a pipe, few colours) it is a shade
    character, and a digit, tenths of the scale, where the encoding is not a Unicode one. Layers share a cell where the
    terminal is too narrow.
    """
    return _HeatMap(trace, width)


class _HeatMap:
    """Chooses its means when it is drawn: only then is the console known."""

    def __init__(self, trace: Trace, width: int | None) -> None:
        self.trace = trace
        self.width = width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        width = options.max_width if self.width is None else min(self.width, options.max_width)
        colour = console.color_system in ("truecolor", "256") and not (
            console.no_color or console.legacy_windows or options.ascii_only
        )
        steps = ramp("none" if too_small(self.trace) else self.trace.kind, dark=True) if colour else ()
        painter = Painter(steps, *limits(self.trace), digits=options.ascii_only)
        for line in _lines(self.trace, max(1, width), painter):
            if options.ascii_only:
                line = Text(line.plain.translate(PLAIN).encode("ascii", "backslashreplace").decode())
            yield from console.render(line, options.update_width(max(1, width)))


def _lines(trace: Trace, width: int, painter: Painter) -> Iterator[Text]:
    names = labels(trace)
    label_width = min(max(map(cell_len, names)), LONGEST_LABEL, max(3, width // 3))
    grid = Grid.fit(
        layers=trace.scores.shape[1], room=max(1, width - label_width - 1), half_blocks=bool(painter.colours)
    )
    begin, end = trace.subject_range

    yield Text.assemble((heading(trace), "bold"), (f" · {trace.model}", "dim"))
    binned = grid.gather(trace.scores)  # (tokens, columns)
    for position, name in enumerate(names):
        style = "bold cyan" if begin <= position < end else ""
        yield Text.assemble((_fitted(name, label_width), style), " ", painter.row(binned[position], grid))
    yield Text(" " * (label_width + 1) + _axis(grid), style="dim")
    yield Text.assemble(" " * (label_width + 1), ("layer" + _sharing(grid), "dim"))
    yield _scale(trace, width, painter)
    yield from _findings(trace)


def _fitted(name: str, width: int) -> str:
    """The label at exactly `width` columns, flush right; a cut one keeps its star, which marks the subject."""
    if cell_len(name) > width:
        tail = "…*" if name.endswith("*") else "…"
        name = set_cell_size(name, max(0, width - len(tail))) + tail
    return " " * (width - cell_len(name)) + name


def _axis(grid: Grid) -> str:
    """Layer numbers under their cells, as many as there is room for."""
    widest = len(str(grid.layers - 1)) + 2
    step = next((step for step in STEPS if grid.place(step) - grid.place(0) >= widest), STEPS[-1])
    line = ""
    for layer in range(0, grid.layers, step):
        line = line.ljust(grid.place(layer)) + str(layer)
    return line if len(line) <= grid.width else line[: line.rstrip().rfind(" ") + 1]


def _sharing(grid: Grid) -> str:
    return "" if grid.bin == 1 else f" (a cell is the strongest of {grid.bin} layers: the terminal is narrow)"


def _scale(trace: Trace, width: int, painter: Painter) -> Text:
    """The scale's colours from least to greatest value, and the two baselines."""
    length = max(4, min(24, width - 50))
    grid = Grid.fit(layers=length, room=length, half_blocks=False)
    values: NDArray[np.float64] = np.linspace(painter.bottom, painter.top, length)
    return Text.assemble(
        f"p({visible(trace.answer)}) {number(painter.bottom)} ",
        painter.row(values, grid),
        f" {number(painter.top)}",
        (f" · low {number(trace.low)} · high {number(trace.high)}", "dim"),
    )


def _findings(trace: Trace) -> Iterator[Text]:
    small = too_small(trace)
    if small is not None:
        yield Text(small, style="bold yellow")
        return
    cells = strongest(trace)
    if not cells:
        yield Text("No score of this trace is a finite number.", style="bold yellow")
        return
    named = [f"“{cell.label}” layer {cell.layer}: {number(cell.score)}" for cell in cells]
    yield Text("Strongest cells, by token: " + " · ".join(named))
    missing = sum(not isfinite(score) for score in trace.scores.flat)
    if missing:
        yield Text(f"{missing} of {trace.scores.size} cells are not finite numbers and are left blank.", style="yellow")
