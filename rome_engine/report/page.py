"""Reports as one self-contained HTML page: text, tables and interactive heat maps; nothing is fetched from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rome_engine.errors import StorageError
from rome_engine.files import finite, write_whole
from rome_engine.report.reading import MISSING, number
from rome_engine.report.views import MapGroup, cell_text, ramps, trace_group
from rome_engine.trace.result import Trace

if TYPE_CHECKING:
    from jinja2 import Environment


LONG = 24
"""A word of more letters may be broken."""


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

    @property
    def group(self) -> MapGroup:
        """What is drawn."""
        return trace_group(self.traces)


@dataclass(frozen=True)
class Panels:
    """Interactive heat maps of anything."""

    heading: str
    group: MapGroup


@dataclass(frozen=True)
class Custom:
    """A section that brings its own template, style sheet and script; they see it as `section`.

    The style sheet and the script stand in the page once for all sections of a class.
    """

    heading: str
    template: ClassVar[str]

    @classmethod
    def style(cls) -> str:
        """Its style sheet."""
        return ""

    @classmethod
    def script(cls) -> str:
        """Its script, which runs after the page's own."""
        return ""


Section = Text | Table | Maps | Panels | Custom


@dataclass(frozen=True)
class Download:
    """What the page's button saves as JSON, under this file name."""

    name: str
    record: Any


def page(
    title: str, sections: Sequence[Section] | Mapping[str, Sequence[Section]], download: Download | None = None
) -> str:
    """A page of any sections, in their order. Raises StorageError where jinja2 is not installed.

    Sections by the name of a metric are shown one metric at a time, the first to begin with, as a switch says.
    Everything shown is escaped, whatever it holds; the page's own policy forbids every request to a network.
    """
    environment = _environment()
    given = sections if isinstance(sections, Mapping) else {"": sections}
    metrics = {
        name: [Panels(one.heading, one.group) if isinstance(one, Maps) else one for one in several]
        for name, several in given.items()
    }
    shown = [section for several in metrics.values() for section in several]
    custom = dict.fromkeys(type(section) for section in shown if isinstance(section, Custom))
    groups = [section.group for section in shown if isinstance(section, Panels)]
    data = {"groups": [group.data() for group in groups], "ramps": ramps(groups)}
    return environment.get_template("page.html.j2").render(
        title=title,
        metrics={name: [(_kind(section), section) for section in several] for name, several in metrics.items()},
        download=download,
        style="".join((resource("page.css"), *(section.style() for section in custom))),
        script="".join((resource("page.js"), *(section.script() for section in custom))),
        data=embedded({**data, "download": download and vars(download)}),
        missing=MISSING,
    )


def save_page(html: str, path: Path) -> None:
    """Write a page, whole or not at all. Raises StorageError where it cannot be written."""
    write_whole(path, html.encode("utf-8", "backslashreplace"))


def _kind(section: Section) -> str:
    return "Custom" if isinstance(section, Custom) else type(section).__name__


def _environment() -> Environment:
    try:
        from jinja2 import Environment, FunctionLoader, StrictUndefined  # optional: only those who write pages need it
    except ImportError as error:
        raise StorageError("pages need jinja2: pip install 'rome-engine[report]'") from error
    environment = Environment(
        loader=FunctionLoader(resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell_text, "long": _long, "numeric_columns": _numeric_columns, "number": number}
    return environment


def resource(name: str) -> str:
    """A template, style sheet or script of the pages."""
    return files("rome_engine.report").joinpath("templates", name).read_text(encoding="utf-8")


def _numeric_columns(table: Table) -> list[bool]:
    """Which columns hold numbers, or nothing, in every row."""
    kinds = [{type(row[place]) for row in table.rows} - {type(None)} for place in range(len(table.columns))]
    return [bool(kind) and kind <= {int, float} for kind in kinds]


def _long(value: object) -> bool:
    """Whether a cell has a word that may be broken, such as a hash; names of figures and intervals are whole."""
    return any(len(word) > LONG for word in cell_text(value).split(" "))


def embedded(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element, all numbers are JSON's."""
    text = json.dumps(finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=str)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
