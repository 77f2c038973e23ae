"""One door for every format in which a comparison can be saved."""

from __future__ import annotations

from pathlib import Path

from rome_engine.bench.comparison import Comparison
from rome_engine.errors import BenchError
from rome_engine.files import suffix_among, write_json, write_whole
from rome_engine.report.comparison_figure import save_comparison_figure
from rome_engine.report.comparison_page import comparison_page
from rome_engine.report.comparison_text import comparison_markdown
from rome_engine.report.drawing import FIGURE_SUFFIXES
from rome_engine.report.page import save_page
from rome_engine.report.tables import TABLE_SUFFIXES, save_table

COMPARISON_SUFFIXES = (".html", ".md", ".json", *FIGURE_SUFFIXES, *TABLE_SUFFIXES)


def save_comparison(comparison: Comparison, path: Path) -> None:
    """Save a comparison as what the suffix says: .html a page, .md tables, .png .svg .pdf pictures, .json, or rows.

    .json holds all of it; .csv and .parquet a row a run and figure.

    The file is written whole or not at all. Raises StorageError for another suffix, where the file cannot be written,
    and where a format's package is not installed; BenchError for pictures and rows of runs in which no record has a
    figure.
    """
    suffix = suffix_among(path, COMPARISON_SUFFIXES)
    if suffix in (*FIGURE_SUFFIXES, *TABLE_SUFFIXES) and not _measured(comparison):
        raise BenchError(
            f"there is nothing to show in {path}, no record has a figure: save .html or .md, which say why"
        )
    if suffix == ".html":
        save_page(comparison_page(comparison), path)
    elif suffix == ".md":
        write_whole(path, comparison_markdown(comparison).encode("utf-8", "backslashreplace"))
    elif suffix == ".json":
        write_json(path, comparison.to_dict())
    elif suffix in FIGURE_SUFFIXES:
        save_comparison_figure(comparison, path)
    else:
        save_table(comparison.rows(), path, comparison.to_dict(listed=0))


def _measured(comparison: Comparison) -> bool:
    return any(score.after.n for line in comparison.entries for score in line.scores)
