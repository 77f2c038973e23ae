"""What every view of averages over facts shows: maps over token roles, curves, peaks, and counts in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rome_engine.report.curves import Curve, Curves
from rome_engine.report.heads import MOST_HEADS
from rome_engine.report.naming import caption, effect_name, heading, layer_axis, map_names, qualifiers
from rome_engine.report.panel import Panel
from rome_engine.report.reading import MISSING, interval, least_span, number
from rome_engine.trace.average import Average
from rome_engine.trace.average_map import AverageMap

Array = NDArray[np.float64]

FAILURES = 3
"""Failed facts that are named."""


def single_maps(average: Average) -> list[AverageMap]:
    """The maps that are shown one by one: those of heads only where they are few."""
    return [one for one in average.maps if one.kind != "head" or not _many_heads(average)]


def head_panels(average: Average) -> list[Panel]:
    """Many maps of heads as one a corruption and graph: heads by layers, for the role where some head matters most."""
    if not _many_heads(average):
        return []
    groups: dict[tuple[str, str], list[AverageMap]] = {}
    for one in average.maps:
        if one.kind == "head":
            groups.setdefault((one.corruption, one.severed), []).append(one)
    return [_head_panel(group, average.maps) for group in groups.values()]


def average_panels(average: Average) -> list[Panel]:
    """A panel a map; `single_maps` says which."""
    maps = single_maps(average)
    return [_panel(one, average, name) for one, name in zip(maps, map_names(maps), strict=True)]


def peak_panels(average: Average) -> list[Panel]:
    """Where the single facts have their strongest cells: shares of facts by role and layer."""
    return [
        replace(
            panel,
            scores=100 * one.peak_share[_rows(one)],
            bottom=0.0,
            top=max(1.0, 100 * float(one.peak_share.max())),
            base=0.0,
            orientation=1,
            diverging=False,
            marks=(),
            subtitle=f"n = {one.averaged}",
            bands=None,
            measure="share of facts (%)",
            axis="Layer of the strongest cell",
            notes=(),
        )
        for one, panel in zip(single_maps(average), average_panels(average), strict=True)
    ]


def average_curves(average: Average) -> list[Curves]:
    """The maps' rows as lines with their bands, on one axis of values for all maps."""
    maps = single_maps(average)
    drawn = [_curves(one, panel) for one, panel in zip(maps, average_panels(average), strict=True)]
    if not drawn:
        return []
    ends = np.array([curves.limits for curves in drawn])
    shared = (float(ends[:, 0].min()), float(ends[:, 1].max()))
    return [replace(curves, fixed=shared) for curves in drawn]


def counted(average: Average) -> str:
    """How many facts the averages rest on, of how many, and why not the others."""
    counts = average.counts
    said = [f"Traced: {counts.traced} of {counts.records} facts, which the model answers right"]
    reasons = (
        (counts.unknown, "answered otherwise"),
        (counts.malformed, "malformed"),
        (counts.skipped, "too long or said before"),
        (counts.failed, "failed"),
        (counts.waiting, "not traced yet"),
    )
    left = ", ".join(f"{count} {reason}" for count, reason in reasons if count)
    if left:
        said.append(f"left out: {left}")
    if average.small:
        verb = "are averaged, too" if average.small_included else "are not averaged"
        said.append(
            f"{average.small} of the traced have a total effect under {average.threshold:g}, too small to localise, "
            f"and {verb}"
        )
    return "; ".join(said) + "."


def total(one: AverageMap) -> str:
    """The mean total effect with its interval."""
    return f"total effect {number(one.total_effect, signed=True)} {interval(one.total_low, one.total_high)}"


def scored(average: Average) -> str:
    """What of the answers was scored."""
    scored = {"all": "the whole answer", "first": "the answer's first token"}
    return scored.get(str(average.provenance.get("answer_tokens")), "the answer")


def failed(average: Average) -> str | None:
    """How many facts failed, and why the first of them did, or None."""
    left = [one for one in average.left if one.status == "failed"]
    if not left:
        return None
    named = "; ".join(f"record {one.record}: {one.reason}" for one in left[:FAILURES])
    return f"{len(left)} failed, and {'the first' if len(left) > FAILURES else 'why'}: {named}."


def bands(average: Average) -> str:
    """What the intervals are, and how much of them is of the noise draws."""
    drawn = [one.noise_se for one in average.maps if not one.corruption.startswith("swap")]
    errors = np.concatenate([one[np.isfinite(one)] for one in drawn]) if drawn else np.zeros(0)
    noise = ""
    if errors.size:
        noise = f" They contain the noise draws' own standard error, which is at most {number(float(errors.max()))}."
    elif drawn:
        noise = " The noise draws' own error cannot be told from one draw a fact."
    return f"Intervals and bands: 95 %, bootstrapped over facts ({average.resamples} resamples).{noise}"


def _many_heads(average: Average) -> bool:
    return len({one.head for one in average.maps if one.kind == "head"}) > MOST_HEADS


def _rows(one: AverageMap) -> list[int]:
    """The roles that some fact has, or all where none has any."""
    return np.flatnonzero(one.facts > 0).tolist() or list(range(len(one.roles)))


def _ends(values: Array, sign: int, least: float) -> tuple[float, float]:
    shown = values[np.isfinite(values)]
    low, high = (min(0.0, float(shown.min())), max(0.0, float(shown.max()))) if shown.size else (0.0, 0.0)
    return (low, max(high, least)) if sign > 0 else (min(low, -least), high)


def _panel(one: AverageMap, average: Average, name: str) -> Panel:
    rows = _rows(one)
    bottom, top = _ends(one.mean, one.sign, least_span(one.metric, one.total_effect))
    fewer = [f"{one.roles[row]} ({one.facts[row]})" for row in rows if one.facts[row] != one.averaged]
    companions = single_maps(average)
    said = [part for part in qualifiers(one, companions, unusual=True) if not part.startswith("window")]
    return Panel(
        name=name,
        heading=heading(one),
        caption=caption(one),
        subtitle=" · ".join([*said, f"n = {one.averaged} of {average.counts.records} facts", total(one)]),
        rows=tuple(one.roles[row] for row in rows),
        bold=tuple("subject token" in one.roles[row] for row in rows),
        scores=one.mean[rows],
        kind=one.kind,
        bottom=bottom,
        top=top,
        base=0.0,
        measure=effect_name(one.metric),
        axis=layer_axis(one),
        orientation=one.sign,
        diverging=True,
        bands=(one.band_low[rows], one.band_high[rows]),
        warning=_warning(one, average),
        notes=(f"Fewer facts have {', '.join(fewer)}.",) if fewer else (),
        unit="role",
    )


def _warning(one: AverageMap, average: Average) -> str | None:
    if not one.averaged:
        return "No fact is left to average. There is nothing to be read here."
    if one.metric == "probability" and not one.total_effect >= average.threshold:
        return (
            f"Mean total effect {number(one.total_effect, signed=True)} is under {average.threshold:g}: too small to "
            "localise. No cell of this map should be read as a location."
        )
    return None


def _curves(one: AverageMap, panel: Panel) -> Curves:
    return Curves(
        caption=panel.caption,
        subtitle=panel.subtitle,
        curves=tuple(
            Curve(one.roles[row], one.mean[row], row, (one.band_low[row], one.band_high[row])) for row in _rows(one)
        ),
        axis=panel.axis,
        measure=panel.measure,
        marks=(("total effect", one.total_effect),),
        least=least_span(one.metric, one.total_effect),
        warning=panel.warning,
    )


def _head_panel(group: Sequence[AverageMap], companions: Sequence[AverageMap]) -> Panel:
    group = sorted(group, key=lambda one: one.head or 0)
    first = group[0]
    stacked = np.stack([one.mean for one in group])  # (heads, roles, layers)
    strength = np.where(np.isfinite(stacked), first.sign * stacked, -np.inf).max(axis=(0, 2))
    role = int(strength.argmax())
    name = first.roles[role] if np.isfinite(strength[role]) else MISSING
    bottom, top = _ends(stacked[:, role], first.sign, least_span(first.metric, first.total_effect))
    verb, done = ("Restoring", "restored") if first.direction == "restore" else ("Corrupting", "corrupted")
    said = [part for part in qualifiers(first, companions, unusual=True) if not part.startswith("window")]
    return Panel(
        name=", ".join(["Heads", *said]),
        heading=f"{verb} one head of one layer at the {name}",
        caption=f"Heads {done}: {name}",
        subtitle=" · ".join([*said, f"n = {first.facts[role]}", total(first)]),
        rows=tuple(f"head {one.head}" for one in group),
        bold=(False,) * len(group),
        scores=stacked[:, role],
        kind="head",
        bottom=bottom,
        top=top,
        base=0.0,
        measure=effect_name(first.metric),
        axis=layer_axis(first),
        orientation=first.sign,
        diverging=True,
        bands=(np.stack([one.band_low[role] for one in group]), np.stack([one.band_high[role] for one in group])),
        notes=("Shown for the role where the strongest cell of any head is.",),
        unit="head",
    )
