"""A comparison in the terminal, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from rome_engine.bench.comparison import Comparison
from rome_engine.report import comparison_tables as tables
from rome_engine.report.comparison_retention import retained
from rome_engine.report.comparison_words import caption
from rome_engine.report.page import Table
from rome_engine.report.views import cell_text

KEYS = ("Figure", "Run", "Runs")
"""Columns that say what a line is of."""
GAP = 2
"""Between two columns."""
SPECIAL = "\\`*_{}[]<>|#~"


def comparison_text(comparison: Comparison) -> RenderableType:
    """All tables but that of every figure, as Rich shows them."""
    shown = [tables.leaderboard(comparison), tables.published(comparison), tables.differences(comparison)]
    shown += [tables.disagreements(comparison), tables.model_wide(comparison), tables.failures(comparison)]
    shown += _matrices(comparison)
    parts: list[RenderableType] = [
        Text(line, "dim" if place < 2 else "yellow") for place, line in enumerate(caption(comparison))
    ]
    for table in shown:
        if table is not None:
            parts += ["", Text(table.heading, "bold"), _Fitting(table)]
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


@dataclass(frozen=True)
class _Fitting:
    """A table as Rich shows it, no word or number broken: columns that do not fit follow below, with what they are of.

    Intervals go below their values, so that more figures fit.
    """

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Grid]:
        head = self.table.columns
        rows = [[cell_text(value).replace(" [", "\n[") for value in row] for row in self.table.rows]
        columns = [[name, *(row[place] for row in rows)] for place, name in enumerate(head)]
        least = [min(_widest(column, r"[ \n]"), options.max_width // 2) for column in columns]
        shown = [place for place in range(len(head)) if any(row[place] for row in rows)]
        for part in _parts(least, shown, [place for place in shown if head[place] in KEYS], options.max_width):
            grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
            room = options.max_width - sum(least[place] + GAP for place in part)
            for place in part:
                more = min(room, max(0, _widest(columns[place], r"\n") - least[place]))
                room -= more
                grid.add_column(Text(head[place]), overflow="fold", width=least[place] + more)
            for row in rows:
                grid.add_row(*(Text(row[place]) for place in part))
            yield grid


def _widest(texts: Sequence[str], between: str) -> int:
    return max(cell_len(piece) for text in texts for piece in re.split(between, text))


def _parts(least: Sequence[int], shown: Sequence[int], keys: Sequence[int], width: int) -> list[list[int]]:
    """The columns in groups that fit, each with the keys before it, or with the first column."""
    keys = keys or shown[:1]
    found: list[list[int]] = []
    for place in (place for place in shown if place not in keys):
        if not found or sum(least[other] + GAP for other in (*found[-1], place)) > width:
            found.append([*keys])
        found[-1].append(place)
    return found


def _markdown(table: Table) -> str:
    lines = [[_plain(column) for column in table.columns], ["---"] * len(table.columns)]
    lines += [[_plain(cell_text(value)) for value in row] for row in table.rows]
    note = f"\n{_plain(table.note)}\n" if table.note else ""
    return f"## {_plain(table.heading)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines) + note


def _plain(text: str) -> str:
    """A text on one line of which nothing is Markdown."""
    return "".join(f"\\{letter}" if letter in SPECIAL else letter for letter in " ".join(text.split()))
