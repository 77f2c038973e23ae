"""Averages over facts in the terminal: counts, total effects, and a heat map of roles and layers a map."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from rome_engine.report.agreement_table import average_agreement_lines
from rome_engine.report.average_view import average_panels, bands, counted, failed, head_panels
from rome_engine.report.reading import CAVEAT, NECESSITY_CAVEAT
from rome_engine.report.terminal import PanelMap
from rome_engine.trace.average import Average


def average_text(average: Average, width: int | None = None) -> RenderableType:
    """The averages as a Rich renderable, at most `width` columns wide (None: as wide as the console).

    More than six maps of heads become one of heads by layers.
    """
    parts: list[RenderableType] = [
        Text.assemble(
            ("Effects averaged over facts", "bold"), (f" · {average.model} · {average.source}", "dim"),
        ),
        Text(counted(average)),
        *(Text(text, "yellow") for text in filter(None, [failed(average)])),
    ]  # fmt: skip
    for panel in (*average_panels(average), *head_panels(average)):
        parts += [Text(""), PanelMap(panel, "mean over facts", width)]
    directions = dict.fromkeys(one.direction for one in average.maps)
    caveats = [CAVEAT if direction == "restore" else NECESSITY_CAVEAT for direction in directions]
    agreed = average_agreement_lines(average)
    return Group(
        *parts, Text(""), *map(Text, agreed), *(Text(said, style="dim") for said in (bands(average), *caveats))
    )
