import struct
import sys
from collections.abc import Callable
from math import nan
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rome_engine.errors import StorageError, TraceError
from rome_engine.report.figure import DPI, PANEL_WIDTH, save_figure
from rome_engine.trace.result import Trace


def texts(path: Path) -> str:
    return "\n".join(
        "".join(element.itertext()) for element in ElementTree.parse(path).iter() if element.tag.endswith("}text")
    )


def test_svg_is_xml_with_every_label_as_text(three: list[Trace], tmp_path: Path) -> None:
    save_figure(three, tmp_path / "maps.svg")
    lines = texts(tmp_path / "maps.svg").splitlines()
    for label in ("Mount*", "Fuji*", "stands", "in", "old", "p(Japan)", "low", "high"):
        assert lines.count(label) == 3, label
    assert "MLP restored, windows of 3 layers" in lines


def test_png_has_its_signature_and_size(three: list[Trace], tmp_path: Path) -> None:
    save_figure(three, tmp_path / "maps.png")
    content = (tmp_path / "maps.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, _ = struct.unpack(">II", content[16:24])
    assert width == pytest.approx(3 * PANEL_WIDTH * DPI, abs=1)


def test_pdf_and_upper_case_suffixes(trace: Trace, tmp_path: Path) -> None:
    save_figure([trace], tmp_path / "map.PDF")
    assert (tmp_path / "map.PDF").read_bytes().startswith(b"%PDF-")


def test_the_same_trace_gives_the_same_bytes(trace: Trace, tmp_path: Path) -> None:
    for suffix in (".svg", ".pdf", ".png"):
        for name in ("a", "b"):
            save_figure([trace], tmp_path / (name + suffix))
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_tokens_are_neither_formulas_nor_markup(make_trace: Callable[..., Trace], tmp_path: Path) -> None:
    tokens = ("$x^2$", " $\\frac", "</text>", "<b>&", "_")
    save_figure([make_trace(tokens=tokens)], tmp_path / "map.svg")
    shown = texts(tmp_path / "map.svg").splitlines()
    assert {"$x^2$*", "$\\frac*", "</text>", "<b>&", "_"} <= set(shown)


def test_a_small_effect_is_said_and_drawn_in_grey(make_trace: Callable[..., Trace], tmp_path: Path) -> None:
    save_figure([make_trace(high=0.12)], tmp_path / "small.svg")
    save_figure([make_trace()], tmp_path / "large.svg")
    assert "too small to localise" in texts(tmp_path / "small.svg")
    assert "too small" not in texts(tmp_path / "large.svg")
    assert "#3b1877" not in (tmp_path / "small.svg").read_text()
    assert "#3b1877" in (tmp_path / "large.svg").read_text()


def test_a_baseline_beyond_the_scale_is_named_at_its_end(make_trace: Callable[..., Trace], tmp_path: Path) -> None:
    save_figure([make_trace(high=0.95)], tmp_path / "map.svg")
    assert "high 0.950 ↑" in texts(tmp_path / "map.svg")


def test_missing_numbers_leave_cells_out(make_trace: Callable[..., Trace], tmp_path: Path) -> None:
    scores = make_trace().scores.copy()
    scores[2] = nan
    scores[3, 1] = nan
    save_figure([make_trace(scores=scores, low=nan)], tmp_path / "map.svg")
    lines = texts(tmp_path / "map.svg").splitlines()
    assert "in" in lines and "stands" not in lines
    assert "1 of 5 tokens were not asked for and are not shown." in lines


def test_the_users_matplotlib_stays_as_it_was(trace: Trace, tmp_path: Path) -> None:
    from matplotlib import pyplot, rcParams

    mine = pyplot.figure()
    before = dict(rcParams)
    save_figure([trace], tmp_path / "map.svg")
    assert dict(rcParams) == before
    assert pyplot.get_fignums() == [mine.number] and pyplot.gcf() is mine
    pyplot.close(mine)


def test_without_matplotlib_the_remedy_is_said(trace: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(StorageError, match=r"pip install 'rome-engine\[report\]'"):
        save_figure([trace], tmp_path / "map.png")
    assert list(tmp_path.iterdir()) == []


def test_no_traces_and_wrong_suffixes_are_errors(trace: Trace, tmp_path: Path) -> None:
    with pytest.raises(TraceError):
        save_figure([], tmp_path / "map.png")
    with pytest.raises(StorageError, match=r"\.png, \.svg, \.pdf"):
        save_figure([trace], tmp_path / "map.jpg")
