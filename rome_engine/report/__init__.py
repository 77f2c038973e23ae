"""Reports: a trace in the terminal, as a figure, as an interactive page; an edit's tables beside it."""

from rome_engine.report.figure import save_figure
from rome_engine.report.page import Maps, Section, Table, Text, page, save_page, trace_page
from rome_engine.report.saving import SUFFIXES, save
from rome_engine.report.terminal import heat_map

__all__ = [
    "SUFFIXES",
    "Maps",
    "Section",
    "Table",
    "Text",
    "heat_map",
    "page",
    "save",
    "save_figure",
    "save_page",
    "trace_page",
]
