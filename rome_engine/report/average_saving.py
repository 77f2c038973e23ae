"""One door for every format in which averages over facts can be saved."""

from __future__ import annotations

from pathlib import Path

from rome_engine.files import suffix_among, write_json
from rome_engine.report.average_figure import save_average_figure
from rome_engine.report.average_page import average_page
from rome_engine.report.figure import FIGURE_SUFFIXES
from rome_engine.report.page import save_page
from rome_engine.report.tables import TABLE_SUFFIXES, save_table
from rome_engine.trace.average import Average

AVERAGE_SUFFIXES = (".html", ".json", *FIGURE_SUFFIXES, *TABLE_SUFFIXES)


def save_average(average: Average, path: Path) -> None:
    """Save averages as what the suffix says: .html a page, .png .svg .pdf a figure, .json all of it, or tidy tables.

    The file is written whole or not at all. Raises StorageError for another suffix, where the file cannot be written,
    and where a format's package is not installed.
    """
    suffix = suffix_among(path, AVERAGE_SUFFIXES)
    if suffix == ".html":
        save_page(average_page(average), path)
    elif suffix == ".json":
        write_json(path, average.to_dict())
    elif suffix in TABLE_SUFFIXES:
        about = {"model": average.model, "source": average.source, "counts": vars(average.counts)}
        chosen = {name: getattr(average, name) for name in ("threshold", "small_included", "resamples", "seed")}
        save_table(average.rows(), path, {**about, **chosen, **average.provenance})
    else:
        save_average_figure(average, path)
