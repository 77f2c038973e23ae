"""One door for every format that a trace can be saved in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rome_engine.errors import TraceError
from rome_engine.files import suffix_among, write_json
from rome_engine.report.figure import FIGURE_SUFFIXES, save_figure
from rome_engine.report.page import save_page
from rome_engine.report.tables import TABLE_SUFFIXES, save_table
from rome_engine.report.trace_page import trace_page
from rome_engine.trace.result import Trace

SUFFIXES = (".html", ".json", *TABLE_SUFFIXES, *FIGURE_SUFFIXES)
NUMBERS = ("scores", "deviation", "others")


def save(traces: Sequence[Trace], path: Path) -> None:
    """Save traces as what the suffix says: .html a page, .png .svg .pdf a figure, .json all, .csv .parquet tidy rows.

    JSON holds one trace as its object, which `Trace.load` reads, and several as a list of them; numbers that are not
    finite are null. A table holds the rows of all traces, one a cell and metric, with a record a trace of how it came
    about (see tables.save_table). The file is written whole or not at all. Raises TraceError for no traces;
    StorageError for another suffix, where the file cannot be written, and where a format's package is not installed.
    """
    suffix = suffix_among(path, SUFFIXES)
    if not traces:
        raise TraceError("there is no trace to save: give at least one")
    if suffix == ".html":
        save_page(trace_page(traces), path)
    elif suffix == ".json":
        records = [trace.to_dict() for trace in traces]
        write_json(path, records[0] if len(records) == 1 else records)
    elif suffix in TABLE_SUFFIXES:
        save_table([row for trace in traces for row in trace.rows()], path, {"traces": [_about(one) for one in traces]})
    else:
        save_figure(traces, path)


def _about(trace: Trace) -> dict[str, Any]:
    """The trace without its maps."""
    record = trace.to_dict()
    return {one.name: record[one.name] for one in fields(trace) if one.name not in NUMBERS}
