"""The page of averages over facts: counts, maps over token roles, curves, peaks, tables, provenance."""

from __future__ import annotations

from collections.abc import Sequence

from rome_engine.errors import TraceError
from rome_engine.report.agreement_table import AVERAGE_EXPLAINED, average_agreement_rows
from rome_engine.report.average_view import (
    average_curves,
    average_panels,
    bands,
    counted,
    head_panels,
    peak_panels,
    scored,
    single_maps,
)
from rome_engine.report.curve_view import CurvesSection
from rome_engine.report.naming import MEASURES, corruption_name, effect_name, map_names
from rome_engine.report.page import Download, Panels, Section, Table, Text, page
from rome_engine.report.panel import Panel
from rome_engine.report.reading import CAVEAT, MISSING, NECESSITY_CAVEAT, interval
from rome_engine.report.views import MapGroup, detail
from rome_engine.trace.average import Average
from rome_engine.trace.average_map import AverageMap

SHOWN = 50
"""Records that were left out and are named one by one."""


def average_page(average: Average) -> str:
    """The page of averages, a metric at a time, their own one first.

    Raises TraceError for no maps, StorageError where jinja2 is not installed.
    """
    if not average.maps:
        raise TraceError("there is no map to show: average at least one")
    return page(
        f"Causal traces averaged over facts: {average.source}",
        {MEASURES.get(metric, metric): _sections(average.of(metric)) for metric in average.metrics},
        Download("average.json", average.to_dict()),
    )


def _sections(average: Average) -> list[Section]:
    panels, heads = average_panels(average), head_panels(average)
    sections: list[Section] = [Text("What was done", _done(average)), _counts(average), _totals(average)]
    if panels:
        sections += [
            Panels("Averaged maps", _group(average, panels)),
            CurvesSection("Roles over layers", average_curves(average)),
            Panels("Where single facts peak", _peaks(average)),
            _strongest(panels),
        ]
    if heads:
        sections.append(Panels("Heads", _group(average, heads)))
    if rows := average_agreement_rows(average):
        columns = ("Map", "Corruption", "And", "Facts", "Rank correlation", "Roles and layers", "Note")
        sections.append(Table("Agreement of corruptions", columns, rows, AVERAGE_EXPLAINED))
    if average.left:
        sections.append(_left(average))
    return sections


def _done(average: Average) -> list[str]:
    first = average.maps[0]
    noises = "; or ".join(dict.fromkeys(_drawn(one) for one in average.maps))
    exchanged = (
        "states of the clean run were restored in the corrupted run"
        if first.direction == "restore"
        else "states of the corrupted run were put into the clean run"
    )
    return [
        counted(average),
        f"The subject of each fact was corrupted ({noises}), and {exchanged}. An effect is how far that moved the run, "
        f"in {MEASURES.get(average.metric, average.metric).lower()} of {scored(average)}, signed and paired with the "
        "same fact's own baseline. Tokens of one role are averaged within a fact first; each fact counts once.",
        bands(average),
    ]


def _drawn(one: AverageMap) -> str:
    """A corruption, and how often it was drawn."""
    name = corruption_name(one.corruption)
    return name if one.corruption.startswith("swap") else f"{name}, {one.samples} draws a fact"


def _counts(average: Average) -> Table:
    counts = average.counts
    rows: list[list[str | int]] = [
        ["records in the file", counts.records],
        ["malformed: no usable fact", counts.malformed],
        ["too long for the model, or said before", counts.skipped],
        ["answered otherwise by the model", counts.unknown],
        ["answered right", counts.known],
        ["… and traced", counts.traced],
        ["… and failed", counts.failed],
        ["… and not traced yet", counts.waiting],
        [f"traced, with a total effect under {average.threshold:g}", average.small],
    ]
    included = "are averaged, too" if average.small_included else "are not averaged"
    note = f"Facts whose total effect is under {average.threshold:g} of probability localise nothing; they {included}."
    return Table("What became of the records", ("Records", "Count"), rows, note)


def _totals(average: Average) -> Table:
    rows: list[list[str | float | int]] = [
        [name, one.averaged, one.high, one.low, one.total_effect, interval(one.total_low, one.total_high)]
        for one, name in zip(average.maps, map_names(average.maps), strict=True)
    ]
    columns = ("Map", "Facts", "Clean run", "Corrupted run", "Total effect", "95 %")
    return Table("Mean total effects", columns, rows)


def _strongest(panels: Sequence[Panel]) -> Table:
    rows: list[list[str | int | float]] = []
    for panel in panels:
        if panel.warning is not None or panel.bands is None:
            continue
        for cell in panel.strongest(len(panel.rows)):
            ends = [float(side[cell.position, cell.layer]) for side in panel.bands]
            rows.append([panel.name, cell.label, cell.layer, cell.score, interval(*ends)])
    note = "The interval is that of this cell alone: that the strongest of many was chosen makes it look stronger."
    return Table("Strongest layer of each role", ("Map", "Role", "Layer", "Effect", "95 %"), rows, note)


def _left(average: Average) -> Table:
    shown = average.left[:SHOWN]
    rows: list[list[str | int]] = [[one.record, one.fact or MISSING, one.status, one.reason] for one in shown]
    more = len(average.left) - len(shown)
    note = f"{more} more are in the JSON file." if more else None
    return Table("Records that are not in the averages", ("Record", "Fact", "What became of it", "Why"), rows, note)


def _group(average: Average, panels: Sequence[Panel]) -> MapGroup:
    own = ("model", "source", "metric", "threshold", "small_included", "resamples", "seed", "seconds")
    fields = [(name, [detail(getattr(average, name))]) for name in own]
    fields += [(name, [detail(value)]) for name, value in average.provenance.items() if name not in own]
    directions = dict.fromkeys(one.direction for one in average.maps)
    return MapGroup(
        panels=panels,
        names=["Value"],
        provenance=fields,
        modes=(("effect", effect_name(average.metric)),),
        note=" ".join(CAVEAT if direction == "restore" else NECESSITY_CAVEAT for direction in directions),
    )


def _peaks(average: Average) -> MapGroup:
    names = map_names(single_maps(average))
    return MapGroup(
        panels=peak_panels(average),
        names=names,
        provenance=(),
        modes=(("score", "Share of facts"),),
        note="Each fact counts once, at its own strongest cell. Where these lie far apart, a mean hides it.",
    )
