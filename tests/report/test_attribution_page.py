"""An attribution as a map, a curve, a page and files: every contribution is there, and they end at the logit."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rome_engine.errors import StorageError
from rome_engine.report.attribution_page import attribution_page
from rome_engine.report.attribution_view import attribution_curves, attribution_panel, kinds
from rome_engine.report.results import ATTRIBUTION_SUFFIXES, save_attribution
from rome_engine.trace.attribution import Attribution, Contribution, attribute
from tests import tiny

PROMPT = "The Eiffel Tower is located in the city of"


@cache
def found(heads: bool = False) -> Attribution:
    return attribute(tiny.shared("neox"), PROMPT, answer="Paris", foil="Rome", heads=heads)


@pytest.mark.parametrize("heads", [False, True])
def test_the_map_and_what_stands_beside_it_hold_every_contribution(heads: bool) -> None:
    panel = attribution_panel(found(heads))
    rows = [f"head {head}" for head in range(tiny.HEADS)] + ["attention biases"] if heads else ["attention"]
    assert panel.rows == (*rows, "MLP")
    apart = sum(part.value for part in found(heads).contributions if part.layer is None)
    assert float(panel.scores.sum()) + apart == pytest.approx(found(heads).total)
    for part in found(heads).contributions:
        if part.component == "mlp":
            assert part.layer is not None and panel.scores[-1, part.layer] == part.value
    assert panel.bottom <= panel.scores.min() and panel.top >= panel.scores.max() and panel.diverging


@pytest.mark.parametrize("heads", [False, True])
def test_the_curve_ends_at_the_logit(heads: bool) -> None:
    curves = attribution_curves(found(heads))
    values = curves.curves[0].values
    assert values[-1] == pytest.approx(found(heads).total) and dict(curves.marks)["difference"] == found(heads).logit
    first = [part.value for part in found(heads).contributions if part.layer in (None, 0)]
    assert values[0] == pytest.approx(sum(first)) and values[0] != pytest.approx(values[-1])


def test_kinds_add_up() -> None:
    sums = dict(kinds(found(heads=True)))
    assert sums.pop("sum") == found(heads=True).total == pytest.approx(sum(sums.values()))
    assert {"embedding", "attention heads", "MLP"} <= set(sums)


def test_the_page_holds_the_attribution_and_fetches_nothing() -> None:
    evil = "</script><script>alert(1)</script>"
    html = attribution_page(replace(found(), prompt=evil, answer=evil))
    data = json.loads(html.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])
    assert data["download"]["record"]["contributions"] == found().to_dict()["contributions"]
    assert data["groups"][0]["views"][0]["scores"] == attribution_panel(found()).scores.tolist()
    assert html.count("<script") == 2 and not re.search(r"https?://|@import|url\(", html)
    for said in ("Parts over layers", "Sum over layers", "Sums by kind of part", "Largest contributions"):
        assert said in html


@pytest.mark.parametrize("suffix", ATTRIBUTION_SUFFIXES)
def test_every_format_is_written(tmp_path: Path, suffix: str) -> None:
    save_attribution(found(), tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size > 300
    with pytest.raises(StorageError, match=r"\.html"):
        save_attribution(found(), tmp_path / "a.gif")


def test_nothing_but_rounding_is_no_picture() -> None:
    parts = tuple(replace(part, value=1e-9) for part in found().contributions)
    panel = attribution_panel(replace(found(), contributions=(*parts, Contribution("mlp", 9, None, 0.0))))
    assert panel.top - panel.bottom >= 0.01 and np.isnan(panel.scores[0, 9])
