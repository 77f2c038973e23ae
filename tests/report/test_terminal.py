import re
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from math import nan

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from rome_engine.report.colour import ramp, rgb
from rome_engine.report.terminal import heat_map
from rome_engine.trace.result import Trace


@pytest.fixture(autouse=True)
def neutral_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def drawn(trace: Trace, width: int = 80, own: int | None = None, encoding: str = "utf-8", **console: object) -> str:
    content = BytesIO()
    file = TextIOWrapper(content, encoding=encoding)  # strict: what the encoding lacks raises
    Console(file=file, width=width, legacy_windows=False, **console).print(heat_map(trace, own))  # type: ignore[arg-type]
    file.flush()
    return content.getvalue().decode(encoding)


def line_of(text: str, label: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(label))


def wide(make_trace: Callable[..., Trace], layers: int = 48) -> Trace:
    """One cell stands out: token 1, the last layer."""
    scores = np.full((5, layers), 0.1)
    scores[1, layers - 1] = 0.8
    return make_trace(scores=scores)


def test_a_pipe_gets_shades_one_line_a_token(trace: Trace) -> None:
    text = drawn(trace)
    assert "\x1b" not in text
    assert line_of(text, "old").split() == ["old", "······▒▒▒███"]
    assert line_of(text, "Fuji*").split() == ["Fuji*", "▒▒▒▓▓▓░░░···"]
    assert "Restoring the hidden state of one layer" in text and "tiny/model" in text
    assert "low 0.100" in text and "high 0.800" in text and "p(Japan) 0.100" in text
    assert "“old” layer 3: 0.800 · “Fuji*” layer 1: 0.520" in text


def test_true_colour_paints_the_ends_of_the_scale(trace: Trace) -> None:
    text = drawn(trace, force_terminal=True, color_system="truecolor")
    scale = ramp("hidden", dark=True)
    for colour in (scale[0], scale[-1]):
        assert "48;2;{};{};{}".format(*rgb(colour)) in text
    assert "█" not in text


def test_no_color_falls_back_to_shades(trace: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = drawn(trace, force_terminal=True, color_system="truecolor")
    assert "48;2" not in text and "███" in text


def test_sixteen_colours_fall_back_to_shades(trace: Trace) -> None:
    text = drawn(trace, force_terminal=True, color_system="standard")
    assert "███" in text


def test_ascii_gets_digits_and_no_letter_it_lacks(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(tokens=("Берлин", " Fuji", "\n", " in", " old"), answer=" Köln")
    text = drawn(trace, encoding="ascii")
    assert line_of(text, "old").endswith("000000444999")
    assert "\\u0411" in text and "p(K\\xf6ln)" in text


@pytest.mark.parametrize("width", [20, 30, 45, 60, 80, 200])
@pytest.mark.parametrize("colour", [None, "truecolor"])
def test_no_line_is_wider_than_the_terminal(make_trace: Callable[..., Trace], width: int, colour: str | None) -> None:
    text = drawn(wide(make_trace), width, force_terminal=colour is not None, color_system=colour)
    bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(map(cell_len, bare.splitlines())) <= width


def test_a_narrow_terminal_shares_cells_says_so_and_loses_no_peak(make_trace: Callable[..., Trace]) -> None:
    text = drawn(wide(make_trace), 30)
    assert "strongest of 3 layers" in " ".join(text.split())
    assert line_of(text, "Fuji*").split()[1] == "·" * 15 + "█"
    assert "strongest of" not in drawn(wide(make_trace), 80)


def test_colour_packs_two_layers_a_character_before_it_bins(make_trace: Callable[..., Trace]) -> None:
    text = drawn(wide(make_trace), 40, force_terminal=True, color_system="truecolor")
    assert "▌" in text and "strongest of" not in text


def test_the_asked_width_is_kept(make_trace: Callable[..., Trace]) -> None:
    assert max(map(cell_len, drawn(wide(make_trace), 200, own=40).splitlines())) <= 40


def test_the_axis_stands_under_its_layers(make_trace: Callable[..., Trace]) -> None:
    lines = drawn(wide(make_trace), 80).splitlines()
    axis = next(line for line in lines if line.split()[:2] == ["0", "5"])
    start = axis.index("0")
    assert [axis[start + layer : start + layer + 2] for layer in (10, 20, 45)] == ["10", "20", "45"]


def test_a_small_effect_names_no_cell(make_trace: Callable[..., Trace]) -> None:
    text = " ".join(drawn(make_trace(high=0.12)).split())
    assert "too small to localise" in text and "0.05" in text
    assert "Strongest" not in text
    painted = drawn(make_trace(high=0.12), force_terminal=True, color_system="truecolor")
    assert "48;2;{};{};{}".format(*rgb(ramp("hidden", dark=True)[-1])) not in painted


def test_missing_scores_are_dashes_and_counted(make_trace: Callable[..., Trace]) -> None:
    scores = make_trace().scores.copy()
    scores[2, 1] = nan
    text = drawn(make_trace(scores=scores))
    assert line_of(text, "stands").split() == ["stands", "···", "–", "······"]
    assert "1 of 20 cells" in text
    assert "No score" in drawn(make_trace(scores=np.full((5, 4), nan)))


def test_tokens_are_no_markup_and_send_no_control_codes(make_trace: Callable[..., Trace]) -> None:
    text = drawn(make_trace(tokens=("[red]x[/red]", "\x1b[2J", " :smile:", " in", " old")))
    assert "[red]x[/red]*" in text and ":smile:" in text and "\x1b" not in text
