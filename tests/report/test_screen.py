"""A screen as maps, table, page and files: what is approximate is never shown as exact."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from rome_engine.errors import StorageError
from rome_engine.report.panel import Panel
from rome_engine.report.screen_page import screen_page
from rome_engine.report.screen_saving import SCREEN_SUFFIXES, save_screen
from rome_engine.report.screen_table import screen_table
from rome_engine.report.screen_view import screen_panels
from rome_engine.trace.screened import Screen
from tests.report.screens import HEADS, LAYERS, build_screen, build_screened

SMALL = (0.03, 0.01)


def text(found: Screen) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(screen_table(found))
    return " ".join(captured.get().split())


def test_panels_hold_approximate_effects_and_the_verified_cells() -> None:
    found = build_screen()
    states, heads = screen_panels(found)
    np.testing.assert_array_equal(states.scores, found.maps[0].approximate)
    np.testing.assert_array_equal(states.exact, found.maps[0].exact)
    assert states.rows[:2] == ("Mount*", "Fuji*") and states.base == 0 and states.top == 3.0 and states.bottom == -0.25
    assert heads.scores.shape == (HEADS, LAYERS) and heads.rows == ("head 0", "head 1")
    assert heads.scores[1, 1] == 3.0 and "“Fuji*”" in heads.heading  # where the strongest head is
    for panel in (states, heads):
        assert panel.measure.startswith("Approximate effect") and "approximate" in panel.caption
        assert any("Dots" in note for note in panel.notes)
    said = states.found() or ""
    assert "by approximation" in said and "“Fuji*” layer 1: 3.000 (exactly 2.000)" in said and "not verified" in said


def test_a_measured_map_says_nothing_of_approximations() -> None:
    (states,) = screen_panels(build_screen(build_screened()))
    measured = Panel(**{**vars(states), "exact": None})
    assert "approximation" not in (measured.found() or "") and "verified" not in (measured.found() or "")


def test_windows_say_that_they_count_twice() -> None:
    one, wide = screen_panels(build_screen(build_screened("mlp", 1), build_screened("mlp", 3)))
    assert not any("counted twice" in note for note in one.notes) and any(
        "counted twice" in note for note in wide.notes
    )
    assert one.name != wide.name


def test_the_runs_own_values_and_the_total_effect_are_said() -> None:
    assert "high −0.500, low −4.000, total effect +3.500" in text(build_screen())
    assert "too small" not in text(build_screen())


def test_a_total_effect_too_small_is_said_as_a_trace_says_it() -> None:
    small = build_screen(probabilities=SMALL)
    assert "of probability +0.020 (high 0.030, low 0.010) is under 0.05: too small to localise" in text(small)
    assert "too small to localise" in screen_page(small)
    assert {panel.ramp for panel in screen_panels(small)} == {"none"}
    assert {panel.ramp for panel in screen_panels(build_screen())} == {"hidden", "head"}


def test_the_page_holds_the_screen_and_says_what_it_does_not_know() -> None:
    found = build_screen(prompt="</script><script>alert(1)</script>")
    html = screen_page(found)
    data = json.loads(html.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])
    (group,) = data["groups"]
    assert group["views"][0]["exact"][1][1] == 2.0 and group["views"][0]["exact"][0][0] is None
    assert data["download"]["record"]["missed"]["share"] == 0.25
    for said in (
        "Missed: an estimated",
        "Approximate: by gradients",
        "Correlation",
        "Verified cells",
        "to first order",
    ):
        assert said in html
    assert "alert(1)</script>" not in html


@pytest.mark.parametrize("suffix", SCREEN_SUFFIXES)
def test_every_format_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"screen{suffix}"
    save_screen(build_screen(), path)
    assert path.stat().st_size > 500


def test_only_verified_cells_are_marked_in_the_figure(tmp_path: Path) -> None:
    def dots(found: Screen) -> int:
        save_screen(found, tmp_path / "s.svg")
        return len(ElementTree.parse(tmp_path / "s.svg").findall(".//*[@id='PathCollection_1']//{*}use"))

    assert dots(build_screen(build_screened())) == 2
    bare = build_screened()
    nothing = type(bare)(bare.kind, 1, bare.approximate, np.full_like(bare.exact, np.nan), bare.chosen)
    assert dots(build_screen(nothing)) == 0


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"\.html"):
        save_screen(build_screen(), tmp_path / "screen.gif")
    assert not list(tmp_path.iterdir())
