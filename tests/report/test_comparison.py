"""A comparison in the terminal, as Markdown, as a page and as files: the same numbers, and published ones apart."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from rome_engine.bench.anchors import COUNTERFACT
from rome_engine.bench.comparison import Comparison, compare
from rome_engine.errors import StorageError
from rome_engine.report.comparison_dots import Drawing, difference_dots, figure_dots
from rome_engine.report.comparison_page import comparison_page
from rome_engine.report.comparison_retention import STEPS, retention_curves, retention_section
from rome_engine.report.comparison_saving import COMPARISON_SUFFIXES, save_comparison
from rome_engine.report.comparison_tables import disagreements, every_figure, leaderboard, published
from rome_engine.report.comparison_text import comparison_markdown, comparison_text
from rome_engine.report.comparison_words import bounds
from rome_engine.report.ticks import round_ticks
from tests.bench.runs import build_run, counterfact, sequential


@pytest.fixture(scope="module")
def single() -> Comparison:
    return compare([counterfact("r-rome", 1, 80, 0.98), counterfact("ft-l", 2, 80, 0.5)])


@pytest.fixture(scope="module")
def streams() -> Comparison:
    return compare([sequential("history", loss=0.0), sequential("plain", batches=3, loss=0.2)], figures=["s", "es"])


def text(found: Comparison) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(comparison_text(found))
    return " ".join(captured.get().replace("\u00a0", " ").split())


def test_the_leaderboard_has_every_figure_with_its_interval_and_n(single: Comparison) -> None:
    table = leaderboard(single)
    figures = ("S %", "ES %", "PS %", "NS %")
    assert table.columns == ("Run", "Method", *figures, "n", "of", "Failed", "s")
    (first, _) = table.rows
    line = single.entries[0]
    score = line.of("es@1")
    assert score is not None and score.after.value is not None and score.after.low is not None
    assert str(first[3]).startswith(f"{100 * score.after.value:.1f} [{100 * score.after.low:.1f},")
    assert first[6:9] == [80, 80, 0]
    shown = [row[0] for row in every_figure(single).rows]
    assert shown == [name for name in (*figures, "NM probability", "KL nats") for _ in range(2)]


def test_of_many_figures_free_answers_stand_beside_forced_ones() -> None:
    values = dict.fromkeys(("es@1", "ps@1", "ns@1", "em@1", "kl@1", "free_begins@1", "free_em@1"), 1.0)
    columns = leaderboard(compare([build_run("one", [values] * 3)])).columns
    assert columns[2:7] == ("S %", "ES %", "PS %", "NS %", "free_em %")


def test_published_results_are_marked_and_in_no_ranking(single: Comparison) -> None:
    table = published(single)
    assert table is not None and len(table.rows) == len(COUNTERFACT) == 5
    assert table.rows[0][:4] == ["published: ROME, GPT-2 XL, single edits", "100.0", "96.4", "75.4"]
    assert all("published" not in str(row) for row in leaderboard(single).rows)
    assert "no part of the ranking" in str(table.note)
    assert published(compare([build_run("one", [{"kl@1": 0.1}] * 2)])) is None


def test_the_terminal_and_markdown_tell_the_same(single: Comparison) -> None:
    said, marked = text(single), comparison_markdown(single).replace("\\", "").replace("\u00a0", " ")
    one = next(pair for pair in single.pairs if pair.figure.name == "es@1")
    reach = bounds(one.difference, one.figure, signed=True).replace("\u00a0", " ")
    for shown in (said, marked):
        for part in ("Leaderboard", "published: MEMIT, GPT-J, 10,000 at once", "McNemar, exact", "p (Holm)", reach):
            assert part in shown, part
    assert "Where the runs disagree" in marked


def test_markdown_tables_have_as_many_cells_as_columns(single: Comparison) -> None:
    tables = [part.splitlines() for part in comparison_markdown(single).split("\n\n") if part.startswith("| ")]
    assert len(tables) == 5
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}) == 1


def test_nothing_is_shown_as_a_dash_and_never_as_zero() -> None:
    lone = text(compare([build_run("one", [{"es@1": 1.0}, None], total=3)], figures=["es"]))
    assert "one one 100.0 1 3 1 3.000" in lone and "100.0 [" not in lone
    apart = compare([build_run("one", [{"es@1": 1.0}]), build_run("two", [{"em@1": 0.5}])])
    assert "0.0" not in " ".join(map(str, leaderboard(apart).rows)).replace("100.0", "")


def test_disagreements_hold_both_figures(single: Comparison) -> None:
    table = disagreements(single)
    assert table is not None
    pair = next(one for one in single.pairs if one.figure.name == "es@1")
    rows = [row for row in table.rows if row[0] == "ES"]
    assert {row[2] for row in rows} <= {one.id for one in pair.disagreements}
    assert {(row[3], row[4], row[5]) for row in rows} <= {("100.0", "0.0", "+100.0"), ("0.0", "100.0", "−100.0")}


def test_dots_and_whiskers_stand_where_the_numbers_are(single: Comparison) -> None:
    drawing = Drawing(figure_dots(single)["es@1"])
    for _, dot in drawing.rows:
        assert dot.low is not None and dot.high is not None and dot.ghost is not None
        assert 0 < drawing.x(dot.low) <= drawing.x(dot.value) <= drawing.x(dot.high) < 640
        assert drawing.x(dot.ghost) < drawing.x(dot.value)  # before the edits
    away = difference_dots(single)
    assert (
        away["es@1"].dots[0].filled and not away["kl@1"].dots[0].filled
    )  # one differs, the other is drawn from one distribution
    assert all(one.limits[0] <= 0 <= one.limits[1] for one in away.values())


def test_lines_and_colours_of_retention(streams: Comparison) -> None:
    curves = retention_curves(streams)
    assert [[line.name for line in one.curves] for one in curves] == [["history", "plain"]] * 2
    shorter = curves[0].curves[1]
    assert len(shorter.values) == 4 and np.isnan(shorter.values[3])  # a shorter run ends where it ends
    section = retention_section(streams)
    assert section is not None and len(section.heats) == 4
    steps = section.heats[0].steps
    assert steps[1][0] is None and all(step is None or 0 <= step < STEPS for row in steps for step in row)
    assert retention_section(compare([counterfact("one", 1, 5)])) is None


def test_retention_says_of_how_many_records(streams: Comparison) -> None:
    assert "batch 0 (n 6)" in text(streams) and "batch 0 (n 6)" in comparison_markdown(streams)
    assert '<td class="number h' in comparison_page(streams) and 'title="n = 6">' in comparison_page(streams)
    assert streams.to_dict()["retention"][0]["counts"][1][:2] == [0, 6]
    fewer = sequential("one")
    rows = tuple(row for row in fewer.rows if (row.id, row.checkpoint) != ("0", 2))
    assert "batch 0 (n 5–6)" in text(compare([replace(fewer, rows=rows)]))


def test_many_runs_share_pictures_without_sharing_a_colour() -> None:
    found = compare([sequential(f"run{place}", 2, 3) for place in range(8)], figures=["es"])
    curves = retention_curves(found)
    assert sum(len(one.curves) for one in curves) == 8
    for one in curves:
        assert len({line.style for line in one.curves}) == len(one.curves)


def test_the_page_is_whole_and_escaped(streams: Comparison) -> None:
    html = comparison_page(compare([counterfact("<script>alert(1)</script>", 1, 12), counterfact("b", 2, 12)]))
    assert "<script>alert(1)" not in html and "&lt;script&gt;alert(1)" in html
    for place in (html, comparison_page(streams)):
        assert "http://" not in place and "https://" not in place
        for drawing in re.findall(r"<svg.*?</svg>", place, re.DOTALL):
            ElementTree.fromstring(drawing)
        assert "nan" not in " ".join(re.findall(r' d="([^"]*)"', place))
    assert "Retention of ES in plain" in comparison_page(streams) and "Retention" not in html.partition("<body>")[2]


@pytest.mark.parametrize("suffix", COMPARISON_SUFFIXES)
def test_every_format_is_written(single: Comparison, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"c{suffix}"
    save_comparison(single, path)
    assert path.stat().st_size > 500
    if suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(single.rows())
        assert json.loads((tmp_path / "c.csv.json").read_text())["pairs"]


def test_another_suffix_is_refused(single: Comparison, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"\.md"):
        save_comparison(single, tmp_path / "c.gif")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 4.1), (96.2, 99.9), (-1e-5, 2e-5), (0.0, 12345.0)])
def test_ticks_are_round_few_and_within(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    for value, written in ticks:
        assert low - 1e-12 <= value <= high + 1e-12 and float(written.replace("−", "-")) == pytest.approx(value)
