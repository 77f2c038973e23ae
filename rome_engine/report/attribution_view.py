"""A direct logit attribution as a heat map of parts over layers, and as the sum that grows from layer to layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rome_engine.report.attribution_table import NAMES, closing
from rome_engine.report.curves import Curve, Curves
from rome_engine.report.panel import Panel
from rome_engine.report.reading import number, visible
from rome_engine.trace.attribution import Attribution, Contribution

Array = NDArray[np.float64]

LEAST = 0.01
"""Logits that a scale spans at least: rounding is no picture."""


def attribution_panel(found: Attribution) -> Panel:
    """Heads or attention, and MLPs, by layer; what belongs to no layer stands in the notes."""
    layered = [part for part in found.contributions if part.layer is not None]
    rows = list(dict.fromkeys(_row(part) for part in layered))
    scores = np.full((len(rows), _layers(found)), np.nan)
    for part in layered:
        scores[rows.index(_row(part)), part.layer] = part.value
    apart = [f"{NAMES[part.component]} {number(part.value, signed=True)}" for part in _apart(found)]
    bottom, top = min(0.0, float(np.nanmin(scores))), max(0.0, float(np.nanmax(scores)))
    return Panel(
        name="Parts",
        heading=f"What each part adds to {_what(found)}",
        caption=f"Contributions to {_what(found)}",
        subtitle="",
        rows=tuple(rows),
        bold=(False,) * len(rows),
        scores=scores,
        kind="head" if any(part.component == "head" for part in layered) else "hidden",
        bottom=bottom,
        top=max(top, bottom + LEAST),
        base=0.0,
        measure=f"adds to {_what(found)}",
        axis="Layer",
        diverging=True,
        notes=(f"Of no layer: {', '.join(apart)}.", closing(found)),
        unit="part",
    )


def attribution_curves(found: Attribution) -> Curves:
    """What belongs to no layer and all layers so far: the last value is the sum of all contributions."""
    added = np.zeros(_layers(found))
    for part in found.contributions:
        if part.layer is not None:
            added[part.layer] += part.value
    values = sum(part.value for part in _apart(found)) + np.cumsum(added)
    return Curves(
        caption="Sum after each layer",
        subtitle="",
        curves=(Curve("embedding, biases and the layers so far", values, 0),),
        axis="Layer",
        measure=_what(found),
        marks=(("logit" if found.foil is None else "difference", found.logit),),
        least=LEAST,
    )


def kinds(found: Attribution) -> list[tuple[str, float]]:
    """The sum of each kind of part, in the order of the forward pass, and that of all."""
    sums: dict[str, float] = {}
    for part in found.contributions:
        name = "attention heads" if part.component == "head" else NAMES[part.component]
        sums[name] = sums.get(name, 0.0) + part.value
    return [*sums.items(), ("sum", found.total)]


def _row(part: Contribution) -> str:
    return f"head {part.head}" if part.component == "head" else NAMES[part.component]


def _layers(found: Attribution) -> int:
    return 1 + max(part.layer for part in found.contributions if part.layer is not None)


def _apart(found: Attribution) -> list[Contribution]:
    return [part for part in found.contributions if part.layer is None]


def _what(found: Attribution) -> str:
    answer = f"“{visible(found.answer)}”"
    return f"the logit of {answer}" if found.foil is None else f"the lead of {answer} over “{visible(found.foil)}”"
