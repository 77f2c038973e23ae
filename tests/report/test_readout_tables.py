"""The lens and the attribution in the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from rome_engine.report.attribution_table import attribution_table, part_name
from rome_engine.report.lens_table import lens_table
from rome_engine.report.reading import number, visible
from rome_engine.trace.attribution import Attribution, Contribution, attribute
from rome_engine.trace.lens import Lens, lens
from tests import tiny

PROMPT = "The Eiffel Tower is located in the city of Paris, the capital of"


@cache
def read() -> Lens:
    return lens(tiny.shared("llama"), PROMPT, answers=["Rome"])


@cache
def attributed() -> Attribution:
    return attribute(tiny.shared("gemma2"), PROMPT, heads=True)


def drawn(shown: RenderableType, width: int = 120, *, colour: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, color_system="truecolor" if colour else None, force_terminal=colour)
    console.print(shown)
    return file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_grid_fits_the_terminal(width: int) -> None:
    lines = drawn(lens_table(read()), width).splitlines()

    assert all(cell_len(line.rstrip()) <= max(width, 30) for line in lines)
    assert sum(line.startswith(("embed", "layer ")) for line in lines) >= 5


def test_a_narrow_terminal_shows_the_last_tokens_and_says_so() -> None:
    narrow, wide = (drawn(lens_table(read()), width) for width in (60, 400))

    assert "too narrow for the first" in narrow
    assert "too narrow" not in wide
    heads = [text.splitlines()[1] for text in (narrow, wide)]
    assert visible(read().tokens[-1])[:5] in heads[0]
    assert visible(read().tokens[0])[:5] in heads[1]


def test_each_line_ends_with_the_rank_at_the_last_token() -> None:
    lines = [line for line in drawn(lens_table(read()), 200).splitlines() if line.startswith(("embed", "layer"))]

    assert [int(line.split()[-1]) for line in lines] == read().answers[0].rank[:, -1].tolist()


def test_colour_shows_the_probability_only_where_there_is_colour() -> None:
    assert "48;2;" in drawn(lens_table(read()), 200, colour=True)
    assert "\x1b" not in drawn(lens_table(read()), 200)


@pytest.mark.parametrize("position", [0, 3, -1])
def test_one_token_shows_its_likeliest_tokens(position: int) -> None:
    text = drawn(lens_table(read(), position), 200)

    for row in range(5):
        assert number(float(read().top_probabilities[row, position, 0])) in text
        assert str(read().answers[0].rank[row, position]) in text
    with pytest.raises(IndexError):
        lens_table(read(), len(read().tokens))


def test_the_largest_contributions_come_first_and_the_rest_is_summed() -> None:
    text = drawn(attribution_table(attributed(), 4))
    ordered = sorted(attributed().contributions, key=lambda part: -abs(part.value))

    places = [text.index(part_name(part)) for part in ordered[:4]]
    assert places == sorted(places)
    rest = sum(part.value for part in ordered[4:])
    assert f"{len(ordered) - 4} others" in text
    assert number(rest, signed=True) in text
    assert number(attributed().total, signed=True) in text
    assert "softcap of 30" in text


def test_bars_grow_with_the_contribution_and_show_its_sign() -> None:
    parts = tuple(Contribution("mlp", layer, None, value) for layer, value in enumerate((4.0, -2.0, 0.0)))
    text = drawn(attribution_table(replace(attributed(), contributions=parts), 9))
    bars = [line.count("█") for line in text.splitlines() if "MLP" in line]

    assert bars[0] == 2 * bars[1] > 0
    assert bars[2] == 0
    assert "−2.000" in text
    assert "others" not in text


def test_a_foil_is_named() -> None:
    found = attribute(tiny.shared("llama"), PROMPT, answer="Rome", foil="Paris")
    text = drawn(attribution_table(found, 3))

    assert f"lead of “{visible(found.answer)}” over “{visible(found.foil or '')}”" in text
    assert "softcap" not in text
