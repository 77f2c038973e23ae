"""Reports as one self-contained HTML page: text, tables and interactive heat maps; nothing is fetched from anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rome_engine.errors import StorageError, TraceError
from rome_engine.files import write_whole
from rome_engine.report.colour import ramp
from rome_engine.report.reading import (
    CAVEAT,
    MISSING,
    NAMES,
    heading,
    labels,
    limits,
    number,
    strongest,
    too_small,
    visible,
)
from rome_engine.trace.result import Trace

if TYPE_CHECKING:
    from jinja2 import Environment

COLOURS = 64
PROVENANCE = (
    "model",
    "prompt",
    "subject",
    "answer",
    "kind",
    "window",
    "samples",
    "noise_sigma",
    "seed",
    "engine",
    "seconds",
)


@dataclass(frozen=True)
class Text:
    """Running text under a heading."""

    heading: str
    paragraphs: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table: numbers are rounded and set flush right, None and what is not finite is a dash. `note` stands below.

    Raises ValueError for a row that has not one value a column.
    """

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | bool | None]]
    note: str | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"the table {self.heading!r} has {len(self.columns)} columns and a row of {len(row)} values"
                )


@dataclass(frozen=True)
class Maps:
    """Interactive heat maps, compared with one another."""

    heading: str
    traces: Sequence[Trace]


Section = Text | Table | Maps


def trace_page(traces: Sequence[Trace]) -> str:
    """The page of one prompt's traces. Raises TraceError for none, StorageError where jinja2 is not installed."""
    if not traces:
        raise TraceError("there is no trace to show: give at least one")
    first = traces[0]
    corrupted = (
        f"The words “{first.subject}” were corrupted with noise, and the probability of the model's answer "
        f"“{visible(first.answer)}” went from {number(first.high)} to {number(first.low)}. Each cell of a map restores "
        "the clean run's state at one token and layer, and shows how probable the answer then is."
    )
    return page(f"Causal trace: {first.prompt}", [Text("What was done", [corrupted]), Maps("Heat maps", traces)])


def page(title: str, sections: Sequence[Section]) -> str:
    """A page of any sections, in their order. Raises StorageError where jinja2 is not installed.

    Everything shown is escaped, whatever it holds; the page's own policy forbids every request to a network.
    """
    environment = _environment()
    groups = [section.traces for section in sections if isinstance(section, Maps)]
    return environment.get_template("page.html.j2").render(
        title=title,
        sections=[(type(section).__name__, section) for section in sections],
        style=_template("page.css"),
        script=_template("page.js"),
        data=_embedded({"groups": [[_view(trace) for trace in traces] for traces in groups], "ramps": _ramps(groups)}),
        caveat=CAVEAT,
        missing=MISSING,
    )


def save_page(html: str, path: Path) -> None:
    """Write a page, whole or not at all. Raises StorageError where it cannot be written."""
    write_whole(path, html.encode("utf-8", "backslashreplace"))


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined  # optional: only those who write pages need it
    except ImportError as error:
        raise StorageError("pages need jinja2: pip install 'rome-engine[report]'") from error
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "map_names": _map_names, "numeric_columns": _numeric_columns}
    environment.globals |= {
        "provenance": _provenance,
        "heading": heading,
        "strongest": strongest,
        "too_small": too_small,
        "number": number,
        "visible": visible,
    }
    return environment


def _template(name: str) -> str:
    return files("rome_engine.report").joinpath("templates", name).read_text(encoding="utf-8")


def _map_names(traces: Sequence[Trace]) -> list[str]:
    """A short name for each map; those of the same kind are numbered."""
    kinds = [trace.kind for trace in traces]
    return [
        NAMES.get(kind, kind) + (f" {kinds[: place + 1].count(kind)}" if kinds.count(kind) > 1 else "")
        for place, kind in enumerate(kinds)
    ]


def _numeric_columns(table: Table) -> list[bool]:
    """Which columns hold numbers, or nothing, in every row."""
    kinds = [{type(row[place]) for row in table.rows} - {type(None)} for place in range(len(table.columns))]
    return [bool(kind) and kind <= {int, float} for kind in kinds]


def _cell(value: object) -> str:
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


def _provenance(traces: Sequence[Trace]) -> list[tuple[str, list[str]]]:
    """How each trace came about: (field, one value a trace)."""
    rows = [(name, [_cell(getattr(trace, name)) for trace in traces]) for name in PROVENANCE]
    further = dict.fromkeys(name for trace in traces for name in trace.provenance)
    return rows + [(name, [_detail(trace.provenance.get(name)) for trace in traces]) for name in further]


def _detail(value: Any) -> str:
    return (
        json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list | tuple) else _cell(value)
    )


def _view(trace: Trace) -> dict[str, Any]:
    """What the page's script draws: the trace itself, for download too, and how every view reads it."""
    bottom, top = limits(trace)
    small = too_small(trace) is not None
    peaks = strongest(trace, 1)
    return {
        "trace": trace.to_dict(),
        "ramp": "none" if small else trace.kind,
        "labels": labels(trace),
        "bottom": bottom,
        "top": top,
        "start": [peaks[0].position, peaks[0].layer] if peaks else [0, 0],
    }


def _ramps(groups: Sequence[Sequence[Trace]]) -> dict[str, Any]:
    """The colours of every kind shown, and of "none", by scheme and sign."""
    kinds = ["none", *dict.fromkeys(trace.kind for traces in groups for trace in traces)]
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


def _embedded(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element, all numbers are JSON's."""
    text = json.dumps(finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=str)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def finite(value: Any) -> Any:
    """The same JSON value with null in the place of numbers that are not finite, which JSON does not know."""
    match value:
        case float():
            return value if isfinite(value) else None
        case dict():
            return {str(name): finite(item) for name, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case _:
            return value
