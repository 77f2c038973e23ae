"""A screen as heat maps: approximate effects, the verified cells marked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rome_engine.report.naming import caption, corruption_name, effect_name, heading, layer_axis, map_names
from rome_engine.report.panel import Panel
from rome_engine.report.reading import asked, labels, least_span, not_asked, number
from rome_engine.report.screen_words import TWICE, warning
from rome_engine.trace.result import Trace
from rome_engine.trace.screened import Screen, ScreenedMap

Array = NDArray[np.float64]

DOTS = "Dots: cells that were verified exactly."


def screen_panels(found: Screen) -> list[Panel]:
    """A panel a map; the heads are one panel, of one token."""
    names = map_names([_unmeasured(found, one) for one in found.maps])
    return [
        _head_panel(found, one) if one.kind == "head" else _panel(found, one, name)
        for one, name in zip(found.maps, names, strict=True)
    ]


def _panel(found: Screen, one: ScreenedMap, name: str) -> Panel:
    trace = _unmeasured(found, one)
    rows, names, (begin, end) = list(asked(trace)), labels(trace), found.subject_range
    bottom, top = _span(found, one.approximate)
    effect = effect_name(found.metric)
    notes = (DOTS, TWICE if one.window > 1 else None, not_asked(trace))
    return Panel(
        name=name,
        heading=f"{heading(trace)}, to first order",
        caption=f"{caption(trace)}: approximate effect",
        subtitle=f"{corruption_name(found.corruption)} · total effect {number(found.total_effect, signed=True)}",
        rows=tuple(names[row] for row in rows),
        bold=tuple(begin <= row < end for row in rows),
        scores=one.approximate[rows],
        kind=one.kind,
        bottom=bottom,
        top=top,
        base=0.0,
        measure=f"Approximate {effect[0].lower()}{effect[1:]}",
        axis=layer_axis(trace),
        diverging=True,
        exact=one.exact[rows],
        warning=warning(found),
        notes=tuple(filter(None, notes)),
    )


def _head_panel(found: Screen, one: ScreenedMap) -> Panel:
    """Heads by layers, at the token where the largest approximate effect of any head is."""
    size = np.where(np.isfinite(one.approximate), np.abs(one.approximate), -np.inf).max(axis=(0, 2))  # (tokens,)
    token, heads = int(size.argmax()), len(one.approximate)
    first = ScreenedMap("head", 1, one.approximate[0], one.exact[0], one.chosen[0])
    trace, plain = _unmeasured(found, first), _panel(found, first, "Heads")
    label, others = labels(trace)[token], len(asked(trace)) - 1
    verb, done = ("Restoring", "restored") if found.direction == "restore" else ("Corrupting", "corrupted")
    left = f"; this picture leaves out the other {others} tokens." if others else "."
    bottom, top = _span(found, one.approximate[:, token])
    return replace(
        plain,
        heading=f"{verb} one head of one layer at “{label}”, to first order",
        caption=f"Heads {done} at “{label}”: approximate effect",
        rows=tuple(f"head {head}" for head in range(heads)),
        bold=(False,) * heads,
        scores=one.approximate[:, token],
        exact=one.exact[:, token],
        bottom=bottom,
        top=top,
        notes=(DOTS, f"Shown at token {token}, “{label}”, where the largest approximate effect of any head is{left}"),
        unit="head",
    )


def _span(found: Screen, values: Array) -> tuple[float, float]:
    """The ends of the scale: zero and every value."""
    shown = values[np.isfinite(values)]
    least = least_span(found.metric, found.total_effect)
    return min([0.0, *shown.tolist()]), max([least, *shown.tolist()])


def _unmeasured(found: Screen, one: ScreenedMap) -> Trace:
    """A trace that has what names are made of."""
    return Trace(
        model=found.model,
        prompt=found.prompt,
        subject=found.subject,
        tokens=found.tokens,
        subject_range=found.subject_range,
        answer=found.answer,
        high=found.high,
        low=found.low,
        kind=one.kind,
        window=one.window,
        noise_sigma=float("nan"),
        samples=found.samples,
        seed=found.seed,
        scores=one.approximate if one.approximate.ndim == 2 else one.approximate[0],
        seconds=0.0,
        engine=found.engine,
        direction=found.direction,
        corruption=found.corruption,
        foil=found.foil,
        metric=found.metric,
    )
