"""One door for every format in which locate → edit can be saved."""

from __future__ import annotations

from pathlib import Path

from rome_engine.bench.locate_result import LocateEdit
from rome_engine.files import suffix_among, write_json
from rome_engine.report.locate_page import locate_page
from rome_engine.report.page import save_page
from rome_engine.report.tables import TABLE_SUFFIXES, save_table

LOCATE_SUFFIXES = (".html", ".json", *TABLE_SUFFIXES)


def save_locate(found: LocateEdit, path: Path) -> None:
    """Save a study as what the suffix says: .html a page, .json all of it, .csv .parquet a row a fact and layer.

    The file is written whole or not at all. Raises StorageError for another suffix, where the file cannot be written,
    and where a format's package is not installed.
    """
    suffix = suffix_among(path, LOCATE_SUFFIXES)
    if suffix == ".html":
        save_page(locate_page(found), path)
    elif suffix == ".json":
        write_json(path, found.to_dict())
    else:
        about = {name: getattr(found, name) for name in ("model", "method", "source", "layers", "depth", "seed")}
        save_table(found.rows(), path, {**about, **found.provenance})
