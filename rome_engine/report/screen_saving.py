"""One door for every format in which a screen can be saved."""

from __future__ import annotations

from pathlib import Path

from rome_engine.files import suffix_among, write_json
from rome_engine.report.figure import FIGURE_SUFFIXES, save_parts
from rome_engine.report.page import save_page
from rome_engine.report.screen_page import screen_page
from rome_engine.report.screen_view import screen_panels
from rome_engine.report.tables import TABLE_SUFFIXES, save_table
from rome_engine.trace.screened import Screen

SCREEN_SUFFIXES = (".html", ".json", *TABLE_SUFFIXES, *FIGURE_SUFFIXES)


def save_screen(found: Screen, path: Path) -> None:
    """Save a screen as what the suffix says: .html a page, .png .svg .pdf a figure, .json all of it, or tidy tables.

    The file is written whole or not at all. Raises StorageError for another suffix, where the file cannot be written,
    and where a format's package is not installed.
    """
    suffix = suffix_among(path, SCREEN_SUFFIXES)
    if suffix == ".html":
        save_page(screen_page(found), path)
    elif suffix == ".json":
        write_json(path, found.to_dict())
    elif suffix in TABLE_SUFFIXES:
        left = ("maps", "tokens", "provenance")
        about = {name: value for name, value in found.to_dict().items() if name not in left}
        save_table(found.rows(), path, {**about, **found.provenance})
    else:
        save_parts(screen_panels(found), path)
