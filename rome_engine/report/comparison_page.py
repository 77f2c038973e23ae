"""The page of a comparison: the leaderboard, published results beside it, pictures, tests, disagreements, retention."""

from __future__ import annotations

from rome_engine.bench.comparison import Comparison
from rome_engine.report import comparison_tables as tables
from rome_engine.report.comparison_dots import DotsSection, difference_dots, figure_dots
from rome_engine.report.comparison_retention import retention_section
from rome_engine.report.comparison_words import caption
from rome_engine.report.page import Download, Section, Table, Text, page
from rome_engine.report.views import detail

LISTED = 50
"""Records a pair and figure where runs disagree in what the page can save."""


def comparison_page(comparison: Comparison) -> str:
    """The page. Raises StorageError where jinja2 is not installed."""
    dots, away = list(figure_dots(comparison).values()), list(difference_dots(comparison).values())
    sections: list[Section | None] = [
        Text("What was compared", caption(comparison)),
        tables.leaderboard(comparison),
        tables.published(comparison),
        DotsSection("Figures with their intervals", dots) if dots else None,
        tables.differences(comparison),
        DotsSection("Differences with their intervals", away) if away else None,
        retention_section(comparison),
        tables.disagreements(comparison),
        tables.every_figure(comparison),
        tables.model_wide(comparison),
        tables.failures(comparison),
        _about(comparison),
    ]
    names = ", ".join(line.label for line in comparison.entries)
    shown = [section for section in sections if section is not None]
    return page(f"Comparison of runs: {names}", shown, Download("comparison.json", comparison.to_dict(LISTED)))


def _about(comparison: Comparison) -> Table:
    """How each run came about, a column a run."""
    fields = dict.fromkeys(
        (part, name)
        for about in comparison.about.values()
        for part in ("configuration", "environment")
        for name in about[part]
    )
    rows = [
        [f"{part}: {name}", *(detail(about[part].get(name)) for about in comparison.about.values())]
        for part, name in fields
    ]
    return Table("How the runs came about", ("Field", *comparison.about), rows)
