"""Reports: traces and averages in the terminal, as figures, as interactive pages; an edit's tables beside them."""

from rome_engine.report.average_figure import save_average_figure
from rome_engine.report.average_page import average_page
from rome_engine.report.average_saving import AVERAGE_SUFFIXES, save_average
from rome_engine.report.average_terminal import average_text
from rome_engine.report.figure import save_figure
from rome_engine.report.page import Download, Maps, Section, Table, Text, page, save_page
from rome_engine.report.saving import SUFFIXES, save
from rome_engine.report.terminal import heat_map, heat_maps
from rome_engine.report.trace_page import trace_page

__all__ = [
    "AVERAGE_SUFFIXES",
    "SUFFIXES",
    "Download",
    "Maps",
    "Section",
    "Table",
    "Text",
    "average_page",
    "average_text",
    "heat_map",
    "heat_maps",
    "page",
    "save",
    "save_average",
    "save_average_figure",
    "save_figure",
    "save_page",
    "trace_page",
]
