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
from rome_engine.bench.datasets.sources import SOURCES
from rome_engine.errors import BenchError, StorageError
from rome_engine.report.comparison_dots import LETTERS, Drawing, difference_dots, figure_dots
from rome_engine.report.comparison_page import comparison_page
from rome_engine.report.comparison_retention import STEPS, retention_curves, retention_section
from rome_engine.report.comparison_saving import COMPARISON_SUFFIXES, save_comparison
from rome_engine.report.comparison_tables import disagreements, every_figure, leaderboard, published
from rome_engine.report.comparison_text import comparison_markdown, comparison_text
from rome_engine.report.comparison_words import bounds, shortened
from rome_engine.report.ticks import round_ticks
from tests.bench.runs import build_run, counterfact, sequential


@pytest.fixture(scope="module")
def single() -> Comparison:
    return compare([counterfact("r-rome", 1, 80, 0.98), counterfact("ft-l", 2, 80, 0.5)])


@pytest.fixture(scope="module")
def streams() -> Comparison:
    return compare([sequential("history", loss=0.0), sequential("plain", batches=3, loss=0.2)], figures=["s", "es"])


def text(found: Comparison, width: int = 200) -> str:
    return " ".join(shown(found, width).split())


def shown(found: Comparison, width: int) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(comparison_text(found))
    return captured.get().replace("\u00a0", " ")


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
    assert columns[2:8] == ("S %", "ES %", "PS %", "NS %", "free_em %", "free_begins %")


@pytest.mark.parametrize(
    ("measured", "about"),
    [
        ("ea free_em free_begins em multihop multihop_begins singlehop es", "ES free_em multihop singlehop"),
        (
            "ea pa free_em kl locality em portability es ps zsre_efficacy zsre_paraphrase zsre_specificity",
            "ES PS free_em portability zsre_efficacy zsre_paraphrase zsre_specificity locality",
        ),
        ("ea free_em kl locality portability zsre_efficacy", "free_em portability zsre_efficacy locality"),
        ("ea pa free_em free_begins free_pem kl locality", "free_em locality free_pem"),
        ("ea pa na kl em pm nm ge rs", "EA PA NA KL EM PM NM GE"),
    ],
    ids=["mquake", "zsre", "knowedit", "qaedit", "others"],
)
def test_the_leaderboard_shows_what_a_set_is_about_and_names_the_others(measured: str, about: str) -> None:
    names = measured.split()
    run = build_run("one", [dict.fromkeys((f"{name}@1" for name in names), 0.5)] * 3, metrics=names)
    table = leaderboard(compare([run]))
    assert [column.split()[0] for column in table.columns[2:-4]] == about.split()
    assert table.note is not None
    told = {name.lower() for name in table.note.rpartition(": ")[2].rstrip(".").split(", ")}
    assert told == set(names) - set(about.lower().split())


def test_published_results_are_marked_and_in_no_ranking(single: Comparison) -> None:
    table = published(single)
    assert table is not None and len(table.rows) == len(COUNTERFACT) == 5
    assert table.rows[0][:4] == ["published: ROME, GPT-2 XL, single edits", "100.0", "96.4", "75.4"]
    assert all("published" not in str(row) for row in leaderboard(single).rows)
    assert "no part of the ranking" in str(table.note)
    assert "98.90" in table.rows[3] and "another scale" in str(table.note)
    values = [{"es@1": 1.0}] * 2
    assert published(compare([build_run("one", values, source="counterfact_500.json")])) is not None
    (official,) = SOURCES["counterfact"].files
    assert official.sha256 is not None
    assert published(compare([build_run("one", values, data=official.sha256, source="mine.json")])) is not None
    for other in ("mquake.json", "zsre_1037.json", "wiki_counterfact.json", None):
        assert published(compare([build_run("one", values, source=other)])) is None
    assert published(compare([build_run("one", [{"kl@1": 0.1}] * 2, source="counterfact.json")])) is None


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


LONG = ("bench-counterfact-r-rome-single", "bench-counterfact-memit-single", "ft")


@pytest.fixture(scope="module")
def long() -> Comparison:
    return compare([counterfact(name, seed, 30) for seed, name in enumerate(LONG)])


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_broken_within_words_in_a_narrow_terminal(long: Comparison, width: int) -> None:
    lines = shown(long, width).splitlines()
    assert max(map(len, lines)) <= width
    whole = " ".join(lines).split(" ")
    for word in ("Difference", "Failed", "McNemar,", *LONG):
        assert word in whole, word
    reaches = {bounds(score.after, score.figure) for line in long.entries for score in line.scores[:4]}
    reaches |= {bounds(pair.difference, pair.figure, signed=True) for pair in long.pairs}
    for reach in reaches:
        assert any(reach.replace("\u00a0", " ") in line for line in lines), reach


def test_labels_of_pictures_fit_and_are_told_apart(long: Comparison) -> None:
    for pictures in (figure_dots(long), difference_dots(long)):
        labels = [dot.short for dot in pictures["es@1"].dots]
        assert max(map(len, labels)) <= LETTERS and len(set(labels)) == len(labels)
        assert all(any(name in dot.tip for name in LONG) for dot in pictures["es@1"].dots)
    assert {"…r-rome… − …memit…", "…memit… − ft"} & set(labels)
    assert shortened(["abcdefghij"], 7) == {"abcdefghij": "abc…hij"}
    assert shortened(["r-rome", "ft"], 12) == {"r-rome": "r-rome", "ft": "ft"}


def test_a_page_breaks_no_interval(single: Comparison) -> None:
    html = comparison_page(single)
    assert "td.long, details td { overflow-wrap: anywhere; }" in html and html.count("overflow-wrap: anywhere") == 3
    broken = re.findall(r'<td class="long">(.*?)</td>', html)
    assert broken and not any("[" in cell and "sha256" not in cell for cell in broken)


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
    assert streams.to_dict()["retention"][0]["cells"][1][1]["n"] == 6
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


@pytest.mark.parametrize("before", [(), ({"es@1": 0.0},) * 3])
def test_runs_in_which_nothing_succeeded(before: tuple[dict[str, float], ...], tmp_path: Path) -> None:
    found = compare([build_run("one", [None] * 3, before)])
    for suffix in COMPARISON_SUFFIXES:
        path = tmp_path / f"c{suffix}"
        if suffix in (".html", ".md", ".json"):
            save_comparison(found, path)
            assert "a key is not finite" in path.read_text()
        else:
            with pytest.raises(BenchError, match=rf"nothing to show in .*c\{suffix}, no record has a figure"):
                save_comparison(found, path)
    said = text(found)
    assert "a key is not finite" in said and "Metrics: ." not in said
    assert ("No record has a figure." in said) == (not before)


def test_another_suffix_is_refused(single: Comparison, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"\.md"):
        save_comparison(single, tmp_path / "c.gif")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 4.1), (96.2, 99.9), (-1e-5, 2e-5), (0.0, 12345.0)])
def test_ticks_are_round_few_and_within(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    for value, written in ticks:
        assert low - 1e-12 <= value <= high + 1e-12 and float(written.replace("−", "-")) == pytest.approx(value)
