"""A direct logit attribution as a page: a map of parts over layers, the sum over layers, and sums by kind of part."""

from __future__ import annotations

from rome_engine.report.attribution_table import closing, part_name, title
from rome_engine.report.attribution_view import attribution_curves, attribution_panel, kinds
from rome_engine.report.curve_view import CurvesSection
from rome_engine.report.page import Download, Panels, Table, Text, page
from rome_engine.report.views import MapGroup, detail
from rome_engine.trace.attribution import Attribution

LARGEST = 20
"""Contributions that are listed one by one."""


def attribution_page(found: Attribution) -> str:
    """The page of one attribution. Raises StorageError where jinja2 is not installed."""
    done = (
        "The residual stream at the last token is a sum of what every part of the model adds to it. With the final "
        "norm's scale held at its actual value, the logit is the sum of these additions (Elhage et al. 2021). What a "
        "part brings about through later layers counts for those layers."
    )
    ordered = sorted(found.contributions, key=lambda part: -abs(part.value))[:LARGEST]
    return page(
        f"Logit attribution: {found.prompt}",
        [
            Text("What was done", [f"{title(found)}.", done, closing(found)]),
            Panels("Parts over layers", _group(found)),
            CurvesSection("Sum over layers", [attribution_curves(found)]),
            Table("Sums by kind of part", ("Part", "Contribution"), kinds(found)),
            Table("Largest contributions", ("Part", "Contribution"), [(part_name(one), one.value) for one in ordered]),
        ],
        Download("attribution.json", found.to_dict()),
    )


def _group(found: Attribution) -> MapGroup:
    return MapGroup(
        panels=[attribution_panel(found)],
        names=["Value"],
        provenance=[(name, [detail(value)]) for name, value in found.provenance.items()],
        modes=(("score", "Contribution"),),
        note="Contributions of both signs cancel: a large one alone does not say that the part decides the answer.",
    )
