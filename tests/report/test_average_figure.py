"""The figure of averages: everything labelled, nothing cut off or overlapping, whatever the number of maps."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from rome_engine.errors import StorageError, TraceError
from rome_engine.report.average_figure import _Layout, save_average_figure
from rome_engine.report.drawing import DPI, STYLE
from rome_engine.trace.average import Average
from rome_engine.trace.roles import ROLES
from tests.report.averages import build_average, build_map, head_maps


def texts(path: Path) -> list[str]:
    found = ElementTree.parse(path).iter()
    return ["".join(element.itertext()) for element in found if element.tag.endswith("}text")]


def several(count: int) -> Average:
    """Maps whose titles are as long as they get."""
    kinds = ("hidden", "mlp", "attn", "pre", "mid", "hidden")
    return build_average(
        *(build_map(kind, severed="attn" if place % 2 else "") for place, kind in enumerate(kinds[:count]))
    )


def test_svg_has_roles_counts_and_intervals_as_text(tmp_path: Path) -> None:
    save_average_figure(build_average(), tmp_path / "a.svg")
    lines = texts(tmp_path / "a.svg")
    for role in ROLES:
        assert lines.count(role) == 3, role  # rows of the map and of the peaks, and a line of the legend
    assert lines.count("n = 20 of 60 facts") == 3
    assert lines.count("total effect +0.500 [+0.400, +0.600]") == 3
    said = " ".join(lines)
    for words in (
        "Traced: 22 of 60 facts",
        "35 answered otherwise",
        "MLP restored, windows of 3 layers",
        "middle subject tokens (11)",
    ):
        assert words in said


def test_the_same_averages_give_the_same_bytes(tmp_path: Path) -> None:
    for suffix in (".svg", ".pdf"):
        for name in ("a", "b"):
            save_average_figure(build_average(build_map()), tmp_path / (name + suffix))
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_nothing_overlaps_or_is_cut_off(count: int) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layout = _Layout(several(count))
    with rc_context(STYLE):
        figure = Figure(figsize=(layout.width, layout.height), dpi=DPI, layout="constrained")
        layout.draw(figure)
        renderer: Any = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        legend = figure.legends[0].get_window_extent(renderer)
        boxes = [axes.get_tightbbox(renderer) for axes in figure.axes if axes.axison]
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 5 * count  # map, scale, curves, peaks, scale
    width, height = figure.bbox.width, figure.bbox.height
    for box in boxes:
        assert box.x0 >= -1 and box.y0 >= legend.y1 - 1 and box.x1 <= width + 1 and box.y1 <= height + 1
    for one, other in combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        down = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert across <= 2 or down <= 2, (across, down)


def test_many_heads_become_one_map(tmp_path: Path) -> None:
    save_average_figure(build_average(build_map(), *head_maps(9)), tmp_path / "a.svg")
    lines = texts(tmp_path / "a.svg")
    assert "Heads restored: last token" in lines and "head 8" in lines
    save_average_figure(build_average(*head_maps(3)), tmp_path / "b.svg")
    assert "Head 2 restored" in texts(tmp_path / "b.svg")


def test_a_small_mean_effect_is_said_and_takes_no_colour(tmp_path: Path) -> None:
    save_average_figure(build_average(build_map(total_effect=0.03)), tmp_path / "a.svg")
    assert "too small to localise" in " ".join(texts(tmp_path / "a.svg"))
    assert "#3b1877" not in (tmp_path / "a.svg").read_text()
    save_average_figure(build_average(build_map()), tmp_path / "b.svg")
    assert "#3b1877" in (tmp_path / "b.svg").read_text()


def test_averages_of_nothing_can_be_drawn(tmp_path: Path) -> None:
    nothing = np.full((6, 8), np.nan)
    empty = build_map(
        averaged=0, facts=np.zeros(6, dtype=np.int64), mean=nothing, band_low=nothing, band_high=nothing,
        noise_se=nothing, total_effect=np.nan, total_low=np.nan, total_high=np.nan, high=np.nan, low=np.nan,
        peaks=np.zeros((0, 2), dtype=np.int64), peak_facts=(),
    )  # fmt: skip
    save_average_figure(build_average(empty), tmp_path / "a.svg")
    assert "No fact is left to average" in texts(tmp_path / "a.svg")


def test_no_maps_and_wrong_suffixes_are_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"\.svg"):
        save_average_figure(build_average(), tmp_path / "a.txt")
    with pytest.raises(TraceError):
        save_average_figure(Average(**{**vars(build_average()), "maps": ()}), tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []
