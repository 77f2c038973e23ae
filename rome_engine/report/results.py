"""Saving what is a table with a record: lenses and attributions, by suffix."""

from __future__ import annotations

import json
from pathlib import Path

from rome_engine.files import suffix_among, write_whole
from rome_engine.report.lens_page import lens_page
from rome_engine.report.page import finite, save_page
from rome_engine.report.tables import save_table
from rome_engine.trace.attribution import Attribution
from rome_engine.trace.lens import Lens

TABLE_SUFFIXES = (".json", ".csv", ".parquet")
LENS_SUFFIXES = (".html", *TABLE_SUFFIXES)


def save_lens(lens: Lens, path: Path) -> None:
    """Save a lens as what the suffix says: .html a page, .json all of it, .csv .parquet its tidy rows.

    Raises StorageError for another suffix and where it cannot be written.
    """
    if suffix_among(path, LENS_SUFFIXES) == ".html":
        save_page(lens_page(lens), path)
    else:
        _save(lens, path)


def save_attribution(found: Attribution, path: Path) -> None:
    """Save an attribution as what the suffix says: .json all of it, .csv .parquet its tidy rows.

    Raises StorageError for another suffix and where it cannot be written.
    """
    suffix_among(path, TABLE_SUFFIXES)
    _save(found, path)


def _save(result: Lens | Attribution, path: Path) -> None:
    if path.suffix.lower() == ".json":
        text = json.dumps(finite(result.to_dict()), ensure_ascii=False, allow_nan=False, default=str)
        write_whole(path, (text + "\n").encode("utf-8", "backslashreplace"))
    else:
        save_table(result.rows(), path, {"prompt": result.prompt, **result.provenance})
