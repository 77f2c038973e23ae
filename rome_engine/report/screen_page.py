"""The page of a screen: approximate maps, the verified cells in a table, and what was missed."""

from __future__ import annotations

from rome_engine.report.page import Download, Panels, Table, Text, page
from rome_engine.report.reading import CAVEAT, NECESSITY_CAVEAT
from rome_engine.report.screen_view import screen_panels
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
from rome_engine.report.views import MapGroup, detail
from rome_engine.trace.screened import Screen

PROVENANCE = ("model", "prompt", "subject", "answer", "foil", "metric", "direction", "corruption", "samples", "seed")


def screen_page(found: Screen) -> str:
    """The page of one screen. Raises StorageError where jinja2 is not installed."""
    done = (
        "Each cell of a map is the effect of exchanging one state as gradients tell it, to first order (attribution "
        "patching: Nanda 2023; Kramár et al. 2024). It is a guide to what should be verified, no measurement."
    )
    columns = ("Token", "Layer", "State", "Approximate", "Exact", "Verified as")
    rows: list[list[str | float | int]] = [
        [
            token_name(found, row["token"]),
            row["layer"],
            state_name(row),
            row["approximate"],
            row["exact"],
            "one of the top" if row["chosen"] == "top" else "a random one",
        ]
        for row in verified(found)
    ]
    return page(
        f"Screen: {found.prompt}",
        [
            Text("What was done", [title(found) + ".", ends(found), *filter(None, [warning(found)]), done]),
            Text("What it does not know", [limits(found), missed_line(found), correlations(found)]),
            Panels("Approximate effects", _group(found)),
            Table("Verified cells", columns, rows, "Exact: the state was exchanged, and the metric measured."),
        ],
        Download("screen.json", found.to_dict()),
    )


def _group(found: Screen) -> MapGroup:
    fields = [(name, [detail(getattr(found, name))]) for name in PROVENANCE]
    fields += [(name, [detail(value)]) for name, value in found.provenance.items() if name not in PROVENANCE]
    return MapGroup(
        panels=screen_panels(found),
        names=["Value"],
        provenance=fields,
        modes=(("score", "Approximate effect"),),
        note=CAVEAT if found.direction == "restore" else NECESSITY_CAVEAT,
    )
