"""A trace as a heat map in the terminal: one line a token, layers from left to right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text

from rome_engine.report.agreement_table import agreement_lines
from rome_engine.report.arrangement import arrange
from rome_engine.report.panel import Panel, trace_panel
from rome_engine.report.reading import number
from rome_engine.report.terminal_cells import Grid, Painter
from rome_engine.trace.result import Trace

LONGEST_LABEL = 22
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
PLAIN = str.maketrans(
    {
        "–": "-", "−": "-", "·": "|", "∅": "?", "↵": "\\", "␣": "_", "⇥": ">", "…": "~", "“": '"', "”": '"',
        "±": "~", "≥": ">",
    }
)  # fmt: skip


def heat_map(trace: Trace, width: int | None = None) -> RenderableType:
    """The trace's scores as a Rich renderable, at most `width` columns wide (None: as wide as the console).

    On a colour terminal every cell is a block of colour. Without colour (NO_COLOR, a pipe, few colours) it is a shade
    character, and a digit, tenths of the scale, where the encoding is not a Unicode one. Layers share a cell where the
    terminal is too narrow. Tokens that were not asked for are left out.
    """
    return PanelMap(trace_panel(trace), trace.model, width)


def heat_maps(traces: Sequence[Trace], width: int | None = None) -> RenderableType:
    """All traces as Rich renderables: modified graphs of one token a row each, many heads as one map, then the maps,
    and how far corruptions agree."""
    arranged = arrange(traces)
    panels = [*arranged.graphs, *arranged.heads, *arranged.maps]
    lines = [Text(line) for line in agreement_lines(traces)]
    return Group(*(PanelMap(panel, traces[0].model, width) for panel in panels), *lines)


class PanelMap:
    """A panel. It chooses its means when it is drawn: only then is the console known."""

    def __init__(self, panel: Panel, aside: str, width: int | None = None) -> None:
        self.panel = panel
        self.aside = aside
        self.width = width

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        width = max(1, options.max_width if self.width is None else min(self.width, options.max_width))
        colour = console.color_system in ("truecolor", "256") and not (
            console.no_color or console.legacy_windows or options.ascii_only
        )
        painter = _painter(self.panel, colour=colour, digits=options.ascii_only)
        for line in _lines(self.panel, self.aside, width, painter):
            if options.ascii_only:
                line = Text(line.plain.translate(PLAIN).encode("ascii", "backslashreplace").decode())
            yield from console.render(line, options.update_width(width))


def _painter(panel: Panel, *, colour: bool, digits: bool) -> Painter:
    if colour:
        return Painter(panel.shade(dark=True), panel.bottom, panel.top, digits=digits)
    # Shades know no sign: what goes the other way than strong cells looks like nothing.
    bottom, top = panel.bottom, panel.top
    if panel.diverging:
        bottom, top = (panel.base, top) if panel.rising else (bottom, panel.base)
    return Painter(None, bottom, max(top, bottom + 1e-12), digits=digits, falling=not panel.rising)


def _lines(panel: Panel, aside: str, width: int, painter: Painter) -> Iterator[Text]:
    label_width = min(max(map(cell_len, panel.rows)), LONGEST_LABEL, max(3, width // 3))
    grid = Grid.fit(
        layers=panel.scores.shape[1], room=max(1, width - label_width - 1), half_blocks=painter.shade is not None
    )
    yield Text.assemble((panel.heading, "bold"), (f" · {aside}", "dim"))
    if panel.subtitle:
        yield Text(panel.subtitle, style="dim")
    binned = grid.gather(panel.scores) if panel.rising else -grid.gather(-panel.scores)  # (rows, columns)
    for name, bold, values in zip(panel.rows, panel.bold, binned, strict=True):
        yield Text.assemble((_fitted(name, label_width), "bold cyan" if bold else ""), " ", painter.row(values, grid))
    yield Text(" " * (label_width + 1) + _axis(grid), style="dim")
    yield Text.assemble(" " * (label_width + 1), ("layer" + _sharing(grid), "dim"))
    yield _scale(panel, width, painter)
    yield from findings(panel)


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


def _scale(panel: Panel, width: int, painter: Painter) -> Text:
    """The scale's colours from least to greatest value, and the marks."""
    length = max(4, min(24, width - 50))
    grid = Grid.fit(layers=length, room=length, half_blocks=False)
    values: NDArray[np.float64] = np.linspace(painter.bottom, painter.top, length)
    return Text.assemble(
        f"{panel.measure} {number(painter.bottom)} ",
        painter.row(values, grid),
        f" {number(painter.top)}",
        ("".join(f" · {name} {number(value)}" for name, value in panel.marks), "dim"),
    )


def findings(panel: Panel) -> Iterator[Text]:
    """The strongest cells, or why none is named, and what the picture leaves out."""
    found = panel.found()
    if panel.warning is not None:
        yield Text(panel.warning, style="bold yellow")
    elif found is None:
        yield Text("No score of this trace is a finite number.", style="bold yellow")
    else:
        yield Text(found)
        missing = int(np.count_nonzero(~np.isfinite(panel.scores)))
        if missing:
            yield Text(
                f"{missing} of {panel.scores.size} cells are not finite numbers and are left blank.", style="yellow"
            )
    for note in panel.notes:
        yield Text(note, style="dim")
