"""A comparison in the terminal, and as Markdown."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from rome_engine.bench.comparison import Comparison
from rome_engine.report import comparison_tables as tables
from rome_engine.report.comparison_retention import retained
from rome_engine.report.comparison_words import caption
from rome_engine.report.page import Table
from rome_engine.report.views import cell_text

SPECIAL = "\\`*_{}[]<>|#~"


def comparison_text(comparison: Comparison) -> RenderableType:
    """The leaderboard, published results, differences, and retention, as Rich shows them."""
    shown = [tables.leaderboard(comparison), tables.published(comparison), tables.differences(comparison)]
    shown += [tables.failures(comparison), *_matrices(comparison)]
    parts: list[RenderableType] = [
        Text(line, "dim" if place < 2 else "yellow") for place, line in enumerate(caption(comparison))
    ]
    for table in shown:
        if table is not None:
            parts += ["", Text(table.heading, "bold"), _grid(table)]
            parts += [Text(table.note, "dim")] if table.note else []
    return Group(*parts)


def comparison_markdown(comparison: Comparison) -> str:
    """All tables of the comparison."""
    shown = [
        tables.leaderboard(comparison),
        tables.published(comparison),
        tables.every_figure(comparison),
        tables.differences(comparison),
        tables.disagreements(comparison),
        tables.model_wide(comparison),
        tables.failures(comparison),
        *_matrices(comparison),
    ]
    head = "# Comparison of runs\n\n" + "".join(f"{_plain(line)}\n\n" for line in caption(comparison))
    return head + "\n".join(_markdown(table) for table in shown if table is not None)


def _matrices(comparison: Comparison) -> list[Table]:
    return [tables.retention_table(comparison, one) for one in retained(comparison)]


def _grid(table: Table) -> Grid:
    """As Rich shows it: intervals go below their values, so that more figures fit, and what a line is of is whole."""
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        grid.add_column(Text(column), overflow="fold", no_wrap=column == "Run")
    for row in table.rows:
        grid.add_row(*(Text(cell_text(value).replace(" [", "\n[")) for value in row))
    return grid


def _markdown(table: Table) -> str:
    lines = [[_plain(column) for column in table.columns], ["---"] * len(table.columns)]
    lines += [[_plain(cell_text(value)) for value in row] for row in table.rows]
    note = f"\n{_plain(table.note)}\n" if table.note else ""
    return f"## {_plain(table.heading)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + note


def _plain(text: str) -> str:
    """A text on one line of which nothing is Markdown."""
    return "".join(f"\\{letter}" if letter in SPECIAL else letter for letter in " ".join(text.split()))
