"""The page of locate → edit: what it shows, the curves, the controls, the relations, and what was left out."""

from __future__ import annotations

from rome_engine.bench.locate_result import SCORES, Left, LocateEdit
from rome_engine.report.locate_view import StackedCurves, curves
from rome_engine.report.locate_words import done, layers_of, p_value, shown, title, told
from rome_engine.report.page import Download, Section, Table, Text, page
from rome_engine.report.reading import MISSING

Row = list[str | int]

SHOWN = 50
"""Facts that were left out and are named one by one."""


def locate_page(found: LocateEdit) -> str:
    """The page of one study. Raises StorageError where jinja2 is not installed."""
    sections: list[Section] = [
        Text("What it shows", shown(found)),
        StackedCurves("Over layers", curves(found)),
        _controls(found),
        _differences(found),
        _explained(found),
        _within(found),
        Text("What was done", done(found)),
        _provenance(found),
    ]
    if found.refused:
        sections.append(_left("Edits that the method refused", found.refused))
    if found.left:
        sections.append(_left("Facts that were left out", found.left))
    return page(title(found), sections, Download("locate-edit.json", found.to_dict()))


def _controls(found: LocateEdit) -> Table:
    columns = (
        "Each fact is edited at",
        "Layers",
        "Facts",
        *(name.capitalize() if name.islower() else name for name in SCORES.values()),
    )
    rows: list[Row] = [
        [one.name, layers_of(one), one.scores[found.score].n, *(told(one.scores[name]) for name in SCORES)]
        for one in found.controls
    ]
    note = (
        "The best layer is chosen for each fact by all the others, so that no fact chooses for itself. Layers are "
        "always among the edited ones. With the interval of 95 %."
    )
    return Table("Where to edit: controls", columns, rows, note)


def _differences(found: LocateEdit) -> Table:
    columns = ("Edited at", "Against", "Facts", f"Difference of the {SCORES[found.score]}")
    rows: list[Row] = [
        [one.name, other, difference.n, told(difference, signed=True)]
        for place, one in enumerate(found.controls)
        for other, difference in one.differences.items()
        if other in [before.name for before in found.controls[:place]]
    ]
    return Table("Controls compared, fact by fact", columns, rows)


def _explained(found: LocateEdit) -> Table:
    columns = ("Map", "Score", "Facts", "Layer alone", "Effect alone", "Both", "Gain of the effect", "By chance", "p")
    rows: list[Row] = [
        [
            one.tracing,
            SCORES[one.score],
            one.gain.n,
            *(told(each, share=True) for each in (one.r2_layer, one.r2_tracing, one.r2_both, one.gain)),
            MISSING if one.chance is None else f"{one.chance:.1%}",
            p_value(one.p_corrected),
        ]
        for one in found.relations
    ]
    note = (
        "Of the variance over facts and layers (R²; the layer as a category: Hase et al. 2023). A gain is never "
        "negative, so its interval does not tell whether there is one: by chance is the mean gain where "
        f"facts have one another's traces, and p the share of gains as large there, corrected for "
        f"{len(found.relations)} relations (Holm)."
    )
    return Table("What tracing adds to the layer", columns, rows, note)


def _within(found: LocateEdit) -> Table:
    columns = ("Map", "Score", "Facts", "Pearson", "Spearman")
    rows: list[Row] = [
        [one.tracing, SCORES[one.score], one.pearson.n, told(one.pearson, signed=True), told(one.spearman, signed=True)]
        for one in found.relations
    ]
    note = (
        "The correlation of tracing effect and score over the layers of one fact, averaged over the facts that have "
        "one. It is not 0 already where both merely follow the layer in all facts alike; the table above takes "
        "that out."
    )
    return Table("Within a fact", columns, rows, note)


def _provenance(found: LocateEdit) -> Table:
    names = ("weights", "dtype", "device", "rome_engine", "torch", "transformers")
    rows = [[name, str(found.provenance.get(name, MISSING))] for name in names]
    return Table("Provenance", ("", "Value"), [*rows, ["seed", str(found.seed)]], "Settings by layer are in the JSON.")


def _left(heading: str, left: tuple[Left, ...]) -> Table:
    rows = [[one.fact, MISSING if one.layer is None else str(one.layer), one.reason] for one in left[:SHOWN]]
    more = len(left) - len(rows)
    return Table(heading, ("Fact", "Layer", "Why"), rows, f"{more} more are in the JSON." if more else None)
