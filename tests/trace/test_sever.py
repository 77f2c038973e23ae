"""Severed graphs and chosen positions, as people write them."""

import pytest

from rome_engine.errors import TraceError
from rome_engine.trace.plan import Pin
from rome_engine.trace.sever import Severed, check_positions, parse_positions

SUBJECT = (2, 5)


@pytest.mark.parametrize(
    ("text", "pins"),
    [
        ("", ()),
        ("mlp", (Pin("mlp"),)),
        ("attn@2-4,7", (Pin("attn", (2, 3, 4, 7)),)),
        ("hidden@0:last", (Pin("hidden", (0,), (9,)),)),
        ("mlp@all:subject", (Pin("mlp", None, (2, 3, 4)),)),
        ("mlp + head3@5:1,6-7", (Pin("mlp"), Pin("head", (5,), (1, 6, 7), 3))),
    ],
)
def test_what_is_written_is_what_is_held(text: str, pins: tuple[Pin, ...]) -> None:
    assert Severed.parse(text).pins(SUBJECT, 10, 8) == pins


@pytest.mark.parametrize("text", ["neuron", "head", "mlp3", "mlp@", "mlp@x", "mlp:nowhere", "mlp@3-1", "mlp@²", "@3"])
def test_nonsense_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(TraceError, match=r"write|choose") as caught:
        Severed.parse(text)
    assert "\n" not in str(caught.value)


def test_what_the_prompt_or_model_does_not_have_is_refused() -> None:
    with pytest.raises(TraceError, match="layer 8"):
        Severed.parse("mlp@8").pins(SUBJECT, 10, 8)
    with pytest.raises(TraceError, match="no token 10"):
        Severed.parse("mlp:10").pins(SUBJECT, 10, 8)


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("all", tuple(range(10))),
        ("subject", (2, 3, 4)),
        ("first-subject,last-subject", (2, 4)),
        ("after", (5, 6, 7, 8, 9)),
        ("last,0-1", (0, 1, 9)),
    ],
)
def test_positions(text: str, positions: tuple[int, ...]) -> None:
    check_positions(text)
    assert parse_positions(text, SUBJECT, 10) == positions


@pytest.mark.parametrize("text", ["", "some", "5-", "-3", "3-1"])
def test_positions_that_cannot_be_read(text: str) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        check_positions(text)
