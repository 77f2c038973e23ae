"""A screen in the terminal: the strongest verified cells, what is approximate and what was missed."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rome_engine.report.reading import number
from rome_engine.report.screen_words import (
    correlations,
    ends,
    limits,
    missed_line,
    state_name,
    title,
    token_name,
    verified,
    warning,
)
from rome_engine.trace.screened import Screen


def screen_table(found: Screen, shown: int = 20) -> RenderableType:
    """The verified cells with the strongest exact effects, approximate beside exact, and the screen's own limits."""
    cells = verified(found)
    table = Table(box=None)
    table.add_column("token")
    table.add_column("layer", justify="right")
    table.add_column("state")
    table.add_column("approximate", justify="right")
    table.add_column("exact", justify="right")
    table.add_column("verified as")
    for row in cells[:shown]:
        table.add_row(
            Text(token_name(found, row["token"])),
            str(row["layer"]),
            state_name(row),
            number(row["approximate"], signed=True),
            number(row["exact"], signed=True),
            "one of the top" if row["chosen"] == "top" else "a random one",
        )
    if len(cells) > shown:
        table.add_row(Text(f"{len(cells) - shown} others", "dim"), style="dim")
    warned = warning(found)
    return Group(
        Text(title(found), "bold"),
        Text(ends(found)),
        *([] if warned is None else [Text(warned, "bold yellow")]),
        table,
        Text(limits(found), "dim"),
        Text(correlations(found), "dim"),
        Text(missed_line(found)),
    )
