"""The page of averages: self-contained, complete, harmless."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from rome_engine.errors import TraceError
from rome_engine.report.average_page import average_page
from rome_engine.report.average_view import average_curves
from rome_engine.report.curve_view import Plot
from rome_engine.trace.average import Average, Left
from tests.report.averages import build_average, build_map, head_maps

EVIL = "</script><script>alert(1)</script><b>\"'&"


def data_of(html: str) -> Any:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    return json.loads(match.group(1))


def test_sections_counts_and_caveat() -> None:
    html = average_page(build_average())
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == [
        "What was done", "What became of the records", "Mean total effects", "Averaged maps", "Roles over layers",
        "Where single facts peak", "Strongest layer of each role", "Records that are not in the averages",
    ]  # fmt: skip
    for words in (
        "Traced: 22 of 60 facts",
        "35 answered otherwise",
        "weak evidence of where an edit works",
        "1000 resamples",
    ):
        assert words in html
    assert "the layer to edit" not in html


def test_the_page_holds_the_averages_for_download() -> None:
    average = build_average()
    data = data_of(average_page(average))
    groups = data["groups"]
    assert Average.from_dict(data["download"]["record"]).to_dict() == average.to_dict()
    assert groups[0]["mode"] == "effect" and groups[0]["views"][0]["scores"] == average.maps[0].mean.tolist()
    assert groups[1]["views"][0]["scores"][2][1] == pytest.approx(75)  # per cent of the facts peak there


def test_each_map_has_curves_with_bands_and_their_numbers() -> None:
    html = average_page(build_average())
    assert len(re.findall(r'<svg viewBox="0 0 640 300" role="img"', html)) == 3
    assert len(re.findall(r'<path class="band band-\d"', html)) == 18
    assert "+0.300 [+0.250, +0.350]" in html


def test_curves_lie_where_their_values_are() -> None:
    plot = Plot(average_curves(build_average(build_map()))[0])
    line = plot.drawn[2].line
    heights = [float(point.split()[1]) for point in re.split("[ML]", line)[1:]]
    assert heights.index(min(heights)) == 1  # up is small in a drawing
    assert heights[5] == pytest.approx(plot.zero)
    ticks = {text: height for height, text in plot.ticks}
    assert heights[1] == pytest.approx(ticks["0.3"], abs=0.02)


def test_many_heads_become_one_map() -> None:
    html = average_page(build_average(build_map(), *head_maps(9)))
    assert "Restoring one head of one layer at the last token" in html
    assert [len(group["views"]) for group in data_of(html)["groups"]] == [1, 1, 1]


def test_hostile_text_is_harmless_and_nothing_is_fetched() -> None:
    html = average_page(
        build_average(model=EVIL, source=EVIL, left=(Left(1, EVIL, EVIL, EVIL),), provenance={EVIL: EVIL})
    )
    assert html.count("<script") == 2 and "<b>" not in html
    assert not re.search(r"https?://|@import|url\(", average_page(build_average()))


def test_a_small_mean_effect_names_no_cell() -> None:
    html = average_page(build_average(build_map(total_effect=0.03)))
    assert "too small to localise" in html and "Strongest cells" not in html
    assert data_of(html)["groups"][0]["views"][0]["ramp"] == "none"


def test_a_switch_shows_every_metric() -> None:
    kl = {"kl": (build_map(metric="kl", total_effect=-3.0),)}
    html = average_page(build_average(build_map(), others=kl))
    assert re.findall(r'name="metric" value="\d"[^>]*><span>(.*?)<', html) == ["Probability", "KL divergence"]
    assert re.findall(r'<div class="metric"( hidden)?>', html) == ["", " hidden"]
    assert len(re.findall(r'<svg viewBox="0 0 640 300" role="img"', html)) == 2  # curves of both
    assert [group["views"][0]["orientation"] for group in data_of(html)["groups"]] == [1, 1, -1, 1]
    assert 'name="metric"' not in average_page(build_average())


def test_draws_are_told_of_noise_and_not_of_swaps() -> None:
    html = average_page(build_average(build_map(), build_map(corruption="swap", samples=1)))
    assert "(Gaussian noise 3s, 10 draws a fact; or subject swapped)" in html
    assert "in probability of the whole answer" in html
    row = {
        **{"kind": "hidden", "window": 1, "head": None, "severed": "", "metric": "probability", "first": "gaussian:3s"},
        **{"second": "swap", "cells": 48, "facts": 17, "correlation": 0.5, "note": None},
    }
    compared = average_page(build_average(agreement=(row, {**row, "metric": "kl"})))
    assert compared.count("Agreement of corruptions") == 1 and '<td class="number">17</td>' in compared


def test_no_maps_is_an_error() -> None:
    with pytest.raises(TraceError):
        average_page(Average(**{**vars(build_average()), "maps": ()}))
