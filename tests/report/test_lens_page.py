from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from rome_engine.report.colour import ramp, rgb
from rome_engine.report.lens_page import STEPS, LensGrid, ink, lens_page
from rome_engine.report.page import Text, page
from rome_engine.trace.lens import Lens, lens
from tests import tiny

EVIL = "</script><script>alert(1)</script><b onload=x>\"'&"


@cache
def found() -> Lens:
    return lens(tiny.shared("llama"), "The Eiffel Tower is in", answers=["Paris", "Rome"], top=3)


class Cells(HTMLParser):
    """The body cells of the grid: (class, title, text)."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: list[list[str]] = []
        self.open = False
        self.feed(html[html.index('<div class="lens">') : html.index('<div class="lens-scale">')])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open = tag == "td"
        if self.open:
            given = dict(attrs)
            self.cells.append([given["class"] or "", given["title"] or "", ""])

    def handle_data(self, data: str) -> None:
        if self.open:
            self.cells[-1][2] += data

    def handle_endtag(self, tag: str) -> None:
        self.open = False


def data_of(html: str) -> list[Any]:
    return [
        json.loads(text)
        for text in re.findall(r'<script type="application/json" class="lens-data">(.*?)</script>', html, re.DOTALL)
    ]


def test_every_cell_is_there_without_a_script() -> None:
    cells = Cells(lens_page(found())).cells
    tokens = len(found().tokens)

    assert len(cells) == 5 * tokens
    style, title, text = cells[2 * tokens + 1]
    assert text.strip() == found().top_texts[2, 1, 0].strip() or "␣" in text
    assert title.startswith("layer 1, after")
    assert all(f"rank {answer.rank[2, 1]}" in title for answer in found().answers)
    assert style == f"s{round(float(found().top_probabilities[2, 1, 0]) * (STEPS - 1))}"


def test_the_data_is_the_lens() -> None:
    (data,) = data_of(lens_page(found()))

    assert data["lens"] == json.loads(json.dumps(found().to_dict()))
    names = [mode["name"] for mode in data["modes"]]
    assert names[0] == "Top token" and names[-1] == "Entropy" and len(names) == 6
    for mode in data["modes"]:
        steps = np.array(mode["steps"])
        assert steps.shape == np.array(mode["texts"]).shape == (5, len(found().tokens))
        assert steps.min() >= 0 and steps.max() < STEPS


def test_the_best_rank_has_the_strongest_colour() -> None:
    ranked = found().answers[0].rank.copy()
    ranked[3, 2], ranked[0, 0] = 1, 500
    changed = replace(found(), answers=(replace(found().answers[0], rank=ranked),))

    steps = np.array(data_of(lens_page(changed))[0]["modes"][2]["steps"])

    assert steps[3, 2] == STEPS - 1
    assert steps[0, 0] == 0
    order = np.argsort(ranked.ravel())
    assert (np.diff(steps.ravel()[order]) <= 0).all()


def test_hostile_text_stays_text() -> None:
    texts = np.full_like(found().top_texts, EVIL)
    answer = replace(found().answers[0], token=EVIL, answer=EVIL)
    tokens = (EVIL, *found().tokens[1:])
    html = lens_page(
        replace(found(), prompt=EVIL, tokens=tokens, top_texts=texts, answers=(answer,), provenance={EVIL: EVIL})
    )

    assert "<b onload" not in html
    assert html.count("<script") == 3
    assert Cells(html).cells[0][2] == EVIL
    assert data_of(html)[0]["lens"]["tokens"][0] == EVIL


def test_nothing_is_fetched() -> None:
    html = lens_page(found())

    assert "default-src 'none'" in unescape(html)
    assert not re.search(r"(?:src|href)=\"(?!data:)", html)
    assert "://" not in html
    assert "@import" not in html


def test_style_and_script_stand_once_and_only_where_a_lens_is() -> None:
    once = page("Two", [LensGrid("One", found()), LensGrid("Other", found())])
    none = page("None", [Text("Only", ["text"])])

    assert once.count(".lens-cell {") == 1 and once.count('lens-data")') == 1
    assert len(data_of(once)) == 2
    assert "lens" not in none


@pytest.mark.parametrize("dark", [False, True])
def test_the_ink_is_read_on_every_step(dark: bool) -> None:
    """A contrast of 4.5 to 1, as WCAG asks of text."""

    def luminance(colour: str) -> float:
        parts = [channel / 255 for channel in rgb(colour)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ground in ramp("hidden", STEPS, dark=dark):
        low, high = sorted((luminance(ground), luminance(ink(ground))))
        assert (high + 0.05) / (low + 0.05) >= 4.5
