"""One door for every format in which a lens or an attribution can be saved."""

from __future__ import annotations

from pathlib import Path

from rome_engine.files import suffix_among, write_json
from rome_engine.report.attribution_page import attribution_page
from rome_engine.report.attribution_view import attribution_curves, attribution_panel
from rome_engine.report.figure import FIGURE_SUFFIXES, save_parts
from rome_engine.report.lens_page import lens_page
from rome_engine.report.page import save_page
from rome_engine.report.tables import TABLE_SUFFIXES, save_table
from rome_engine.trace.attribution import Attribution
from rome_engine.trace.lens import Lens

LENS_SUFFIXES = (".html", ".json", *TABLE_SUFFIXES)
ATTRIBUTION_SUFFIXES = (*LENS_SUFFIXES, *FIGURE_SUFFIXES)


def save_lens(lens: Lens, path: Path) -> None:
    """Save a lens as what the suffix says: .html a page, .json all of it, .csv .parquet its tidy rows.

    Raises StorageError for another suffix and where it cannot be written.
    """
    if suffix_among(path, LENS_SUFFIXES) == ".html":
        save_page(lens_page(lens), path)
    else:
        _save(lens, path)


def save_attribution(found: Attribution, path: Path) -> None:
    """Save an attribution as what the suffix says: .html a page, .png .svg .pdf a figure, .json all, or tidy rows.

    Raises StorageError for another suffix, where it cannot be written, and where a format's package is not installed.
    """
    suffix = suffix_among(path, ATTRIBUTION_SUFFIXES)
    if suffix == ".html":
        save_page(attribution_page(found), path)
    elif suffix in FIGURE_SUFFIXES:
        save_parts([attribution_panel(found), attribution_curves(found)], path)
    else:
        _save(found, path)


def _save(result: Lens | Attribution, path: Path) -> None:
    if path.suffix.lower() == ".json":
        write_json(path, result.to_dict())
    else:
        save_table(result.rows(), path, {"prompt": result.prompt, **result.provenance})
