"""What the page's script and template draw of a group of heat maps, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rome_engine.report.colour import ramp
from rome_engine.report.naming import MEASURES, map_names
from rome_engine.report.panel import Panel, trace_panels
from rome_engine.report.reading import CAVEAT, MISSING, NECESSITY_CAVEAT, number
from rome_engine.trace.result import Trace

COLOURS = 64
PROVENANCE = (
    "model",
    "prompt",
    "subject",
    "answer",
    "foil",
    "kind",
    "head",
    "window",
    "direction",
    "severed",
    "corruption",
    "metric",
    "samples",
    "noise_sigma",
    "seed",
    "engine",
    "seconds",
)


@dataclass(frozen=True, eq=False)
class MapGroup:
    """Heat maps that are compared with one another.

    provenance: (field, a value a column) under the columns' `names`. modes: what can be shown, values ("score") or
    effects ("effect"), each with its name. note: stands below.
    """

    panels: Sequence[Panel]
    names: Sequence[str]
    provenance: Sequence[tuple[str, Sequence[str]]]
    modes: Sequence[tuple[str, str]]
    note: str

    @property
    def ramps(self) -> set[str]:
        """The names of the colours that are needed."""
        return {panel.ramp for panel in self.panels}

    def data(self) -> dict[str, Any]:
        """What the script draws."""
        return {
            "mode": self.modes[0][0],
            "modes": len(self.modes),
            "views": [_view(panel) for panel in self.panels],
        }


def trace_group(traces: Sequence[Trace], panels: Sequence[Panel] | None = None) -> MapGroup:
    """The maps of traces, or other panels of them."""
    metrics = {trace.metric for trace in traces}
    measure = MEASURES.get(next(iter(metrics)), "Value") if len(metrics) == 1 else "Value"
    directions = dict.fromkeys(trace.direction for trace in traces)
    caveats = [CAVEAT if direction == "restore" else NECESSITY_CAVEAT for direction in directions]
    shown = trace_panels(traces) if panels is None else panels
    stars = "The subject's tokens are starred. " if any(panel.unit == "token" for panel in shown) else ""
    return MapGroup(
        panels=shown,
        names=map_names(traces),
        provenance=_provenance(traces),
        modes=(("score", measure), ("effect", "Indirect effect")),
        note=stars + " ".join(caveats),
    )


def ramps(groups: Sequence[MapGroup]) -> dict[str, Any]:
    """The colours of every kind shown, and of "none", by scheme and sign."""
    kinds = ["none", *sorted(set().union(*(group.ramps for group in groups)) - {"none"})]
    return {
        kind: {
            scheme: {
                sign: ramp(kind, COLOURS, dark=scheme == "dark", negative=sign == "negative")
                for sign in ("positive", "negative")
            }
            for scheme in ("light", "dark")
        }
        for kind in kinds
    }


def cell_text(value: object) -> str:
    """A table's cell as text."""
    match value:
        case None:
            return MISSING
        case bool():
            return "yes" if value else "no"
        case float():
            return number(value)
        case _:
            return str(value)


def detail(value: Any) -> str:
    """A value of a provenance as text."""
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return cell_text(value)


def _provenance(traces: Sequence[Trace]) -> list[tuple[str, list[str]]]:
    """How each trace came about: (field, one value a trace); fields that no trace has are left out."""
    rows = [(name, [cell_text(getattr(trace, name)) for trace in traces]) for name in PROVENANCE]
    further = dict.fromkeys(name for trace in traces for name in trace.provenance)
    rows += [(name, [detail(trace.provenance.get(name)) for trace in traces]) for name in further]
    return [(name, values) for name, values in rows if set(values) - {MISSING, ""}]


def _view(panel: Panel) -> dict[str, Any]:
    """How one map is drawn: `effect` is sign * (score - base), strong where orientation * effect is great."""
    found = panel.strongest(1)
    return {
        "rows": panel.rows,
        "bold": panel.bold,
        "unit": panel.unit,
        "scores": panel.scores.tolist(),
        "bands": None if panel.bands is None else [side.tolist() for side in panel.bands],
        "exact": None if panel.exact is None else panel.exact.tolist(),
        "ramp": panel.ramp,
        "bottom": panel.bottom,
        "top": panel.top,
        "base": panel.base,
        "sign": panel.sign,
        "orientation": panel.orientation,
        "diverging": panel.diverging,
        "measure": panel.measure,
        "marks": panel.marks,
        "start": [found[0].position, found[0].layer] if found else [0, 0],
        "missing": bool(np.any(~np.isfinite(panel.scores))),
    }
