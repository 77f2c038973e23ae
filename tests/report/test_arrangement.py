"""Many maps alike become one picture: heads by layers, and curves of modified graphs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from math import nan
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from rome_engine.report import heat_maps, save_figure, trace_page
from rome_engine.report.arrangement import arrange
from rome_engine.trace.result import Trace

Make = Callable[..., Trace]


def heads(make_trace: Make, count: int = 8) -> list[Trace]:
    """Head 5 stands out at token 1, "Fuji", layer 2."""
    found = []
    for head in range(count):
        scores = np.full((5, 4), 0.1) + 0.001 * head
        if head == 5:
            scores[1, 2] = 0.6
        found.append(make_trace(kind="head", head=head, scores=scores))
    return found


def graphs(make_trace: Make) -> list[Trace]:
    """The last subject token alone in three graphs."""
    found = []
    for place, severed in enumerate(("", "mlp", "attn")):
        scores = np.full((5, 4), nan)
        scores[1] = [0.5, 0.4 - 0.1 * place, 0.3, 0.1]
        found.append(make_trace(scores=scores, severed=severed, deviation=np.full((5, 4), 0.2), samples=4))
    return found


def shown(traces: list[Trace], width: int = 100) -> str:
    file = StringIO()
    Console(file=file, width=width, legacy_windows=False).print(heat_maps(traces))
    return file.getvalue()


def texts(path: Path) -> list[str]:
    found = ElementTree.parse(path).iter()
    return ["".join(element.itertext()) for element in found if element.tag.endswith("}text")]


def test_many_heads_are_shown_at_the_token_where_one_matters_most(make_trace: Make) -> None:
    traces = heads(make_trace)
    (panel,) = arrange([make_trace(), *traces[::-1]]).heads
    assert panel.rows == tuple(f"head {head}" for head in range(8))
    assert np.array_equal(panel.scores, np.stack([one.scores[1] for one in traces]))
    assert "Fuji*" in panel.caption and "token 1" in panel.notes[0]
    assert panel.strongest(1)[0].label == "head 5"


def test_few_heads_and_other_maps_stay_single(make_trace: Make) -> None:
    arranged = arrange([make_trace(), *heads(make_trace, 6)])
    assert arranged.heads == () and len(arranged.maps) == 7
    arranged = arrange([make_trace(), *heads(make_trace, 7)])
    assert len(arranged.heads) == 1 and len(arranged.maps) == 1 and len(arranged.head_maps) == 7


def test_heads_in_the_terminal_the_figure_and_the_page(make_trace: Make, tmp_path: Path) -> None:
    traces = heads(make_trace)
    text = shown(traces)
    assert text.count("Restoring") == 1 and "“head 5” layer 2: 0.600" in text and "Fuji*" in text
    save_figure(traces, tmp_path / "a.svg")
    assert "Heads restored at “Fuji*”" in texts(tmp_path / "a.svg") and "head 7" in texts(tmp_path / "a.svg")
    html = trace_page(traces)
    assert "All heads at one token" in html and "Heat maps of single heads" in html
    assert '<option value="7">Head 7</option>' in html


def test_modified_graphs_become_curves_of_effects(make_trace: Make) -> None:
    (curves,) = arrange([make_trace(), *graphs(make_trace)]).curves
    assert [curve.name for curve in curves.curves] == ["whole model", "MLP severed", "attention severed"]
    np.testing.assert_allclose(curves.curves[1].values, [0.4, 0.2, 0.2, 0.0], atol=1e-12)
    low, high = curves.curves[1].band or (None, None)
    np.testing.assert_allclose(np.subtract(high, low), 2 * 0.2 / np.sqrt(4))
    assert "standard error" in curves.note and curves.caption == "Hidden state restored at “Fuji*”"


def test_a_distant_mark_does_not_flatten_the_lines(make_trace: Make) -> None:
    curves = arrange(graphs(make_trace)).curves[0]
    near, far = replace(curves, marks=(("total", 0.6),)), replace(curves, marks=(("total", 9.0),))
    assert near.placed_marks()[0][1:] == ("total +0.600", True)
    assert far.limits[1] < 1 and far.placed_marks()[0][1:] == ("total +9.000 ↑", False)


def test_whole_maps_and_single_graphs_are_no_curves(make_trace: Make) -> None:
    assert arrange([make_trace(), make_trace(severed="mlp")]).curves == ()
    assert arrange(graphs(make_trace)[:1]).curves == ()
    other = replace(graphs(make_trace)[1], corruption="swap")
    assert arrange([graphs(make_trace)[0], other]).curves == ()


def test_curves_in_the_terminal_the_figure_and_the_page(make_trace: Make, tmp_path: Path) -> None:
    traces = graphs(make_trace)
    lines = [line.strip() for line in shown(traces).splitlines()]
    assert "MLP severed ███▒▒▒▒▒▒···" in lines
    assert any(line.startswith("Restoring the hidden state of one layer at “Fuji*”") for line in lines)
    save_figure(traces, tmp_path / "a.svg")
    found = texts(tmp_path / "a.svg")
    assert {"whole model", "MLP severed", "attention severed", "Indirect effect on p(Japan)"} <= set(found)
    html = trace_page(traces)
    assert html.count('class="line line-2"') == 2 and "Heat maps" not in html  # the legend and the line
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    data = json.loads(match.group(1))
    assert [Trace.from_dict(record).severed for record in data["download"]["record"]] == ["", "mlp", "attn"]
    assert data["groups"][0]["views"][0]["rows"] == ["whole model", "MLP severed", "attention severed"]


def test_corruptions_are_compared_in_the_terminal_and_on_the_page(make_trace: Make) -> None:
    traces = [make_trace(), make_trace(corruption="swap")]
    line = "Agreement of corruptions, Hidden state: Gaussian noise and subject swapped 1.00"
    assert line in " ".join(shown(traces).split())
    assert "Agreement of corruptions" in trace_page(traces)
    assert "Agreement" not in trace_page([make_trace()]) + shown([make_trace()])
    flat = make_trace(corruption="swap", scores=np.full((5, 4), 0.1))
    assert "all cells of a map are equal" in " ".join(shown([make_trace(), flat]).split())
    assert "all cells of a map are equal" in trace_page([make_trace(), flat])


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_the_page_says_which_way_states_went(make_trace: Make, direction: str) -> None:
    html = trace_page([make_trace(direction=direction)])
    assert ("suffices for the answer" in html) == (direction == "restore")
    assert ("necessary for the answer" in html) == (direction == "corrupt")
    assert ("where restoring a state brings the answer back" in html) == (direction == "restore")
