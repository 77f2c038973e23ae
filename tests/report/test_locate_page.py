"""The page of locate → edit, its curves, and its files."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rome_engine.bench.locate_result import Left
from rome_engine.errors import StorageError
from rome_engine.report.locate_page import SHOWN, locate_page
from rome_engine.report.locate_saving import save_locate
from rome_engine.report.locate_view import LayersPlot, curves
from rome_engine.report.locate_words import shown
from tests.report.locates import EDITED, FACTS, LAYERS, build_study

EVIL = "</script><script>alert(1)</script><b>\"'&"


def test_sections() -> None:
    html = locate_page(build_study())
    assert re.findall(r"<h2>(.*?)</h2>", html) == [
        "What it shows", "Over layers", "Where to edit: controls", "Controls compared, fact by fact",
        "What tracing adds to the layer", "Within a fact", "What was done", "Provenance",
        "Edits that the method refused", "Facts that were left out",
    ]  # fmt: skip
    assert shown(build_study())[-1] in html and "the layer to edit" not in html
    assert "refused" not in " ".join(re.findall(r"<h2>(.*?)</h2>", locate_page(build_study(refused=()))))


def test_all_pictures_share_one_axis_of_layers() -> None:
    plots = [LayersPlot(one) for one in curves(build_study())]
    assert len({tuple(plot.layers) for plot in plots}) == 1 and len(plots) == 3
    tracing, editing, both = plots
    places = [float(point.split()[0]) for point in re.split("[ML]", tracing.drawn[0].line)[1:]]
    assert len(places) == LAYERS
    for plot in (editing, both):
        for drawn in plot.drawn:
            points = [float(point.split()[0]) for point in re.split("[ML]", drawn.line)[1:]]
            assert points == [places[layer] for layer in EDITED]
            assert len(drawn.markers) == len(EDITED) and drawn.band
        assert [row[0] for row in plot.table] == [str(layer) for layer in EDITED]


def test_curves_are_the_means_with_their_intervals() -> None:
    found = build_study()
    _, editing, both = curves(found)
    rewrite, success = editing.curves[:2]
    assert rewrite.values[list(EDITED)] == pytest.approx(found.scores["rewrite"].mean(0))
    assert success.band is not None and (success.values[list(EDITED)] == 1).all()
    assert (success.band[0][list(EDITED)] < 1).all()  # all facts alike: still not certain
    assert both.curves[0].values[1] == pytest.approx(
        np.corrcoef(found.tracing[0].effect[:, 1], found.scores["ps"][:, 0])[0, 1]
    )


def test_controls_are_compared_once_each() -> None:
    html = locate_page(build_study())
    table = html[html.index("Controls compared") : html.index("What tracing adds")]
    assert table.count("<tr>") == 1 + 5 * 4 // 2


def test_many_facts_that_were_left_out_are_counted() -> None:
    left = tuple(Left(f"f{place}", "unknown") for place in range(SHOWN + 7))
    assert "7 more are in the JSON." in locate_page(build_study(left=left))


def test_hostile_text_is_harmless_and_nothing_is_fetched() -> None:
    html = locate_page(
        build_study(
            model=EVIL, source=EVIL, left=(Left(EVIL, EVIL),), provenance={**build_study().provenance, "weights": EVIL}
        )
    )
    assert html.count("<script") == 2 and "<b>" not in html
    assert not re.search(r"https?://|@import|url\(", html)


def test_files(tmp_path: Path) -> None:
    found = build_study()
    for suffix in ("html", "json", "csv"):
        save_locate(found, tmp_path / f"report.{suffix}")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert record["depth"] == 2 and len(record["facts"]) == FACTS
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == FACTS * LAYERS
    assert [int(row["layer"]) for row in rows if row["es"]] == list(EDITED) * FACTS
    assert float(rows[1]["rewrite"]) == pytest.approx(found.scores["rewrite"][0, 0])
    with pytest.raises(StorageError, match=r"ends in '\.txt'"):
        save_locate(found, tmp_path / "report.txt")


def test_scores_that_are_missing_break_no_page() -> None:
    found = build_study()
    holes = {name: np.full_like(values, np.nan) if name == "ns" else values for name, values in found.scores.items()}
    assert "NS" in locate_page(replace(found, scores=holes))
