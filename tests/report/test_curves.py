"""Lines are told apart by readers with every kind of colour vision, and in grey."""

from __future__ import annotations

from itertools import combinations
from math import dist

import pytest

from rome_engine.report import colour
from rome_engine.report.curve_view import SHAPES
from rome_engine.report.curves import COLOURS, DASHES, MARKERS

# Machado, Oliveira & Fernandes 2009, severity 1.0, in linear RGB.
VISION = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
    "trichromacy": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
}
APART = 0.07
"""In OKLab; neighbouring steps of a scale of ten lie about as far apart."""


def seen(hexadecimal: str, vision: str) -> colour.Point:
    light = [colour._linear(channel / 255) for channel in colour.rgb(hexadecimal)]
    mixed = [sum(weight * part for weight, part in zip(row, light, strict=True)) for row in VISION[vision]]
    channels = [round(255 * colour._encoded(part)) for part in mixed]
    return colour._to_oklab("#" + "".join(f"{channel:02x}" for channel in channels))


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("ground", [0, 1])
def test_lines_differ_in_every_kind_of_colour_vision(vision: str, ground: int) -> None:
    points = [seen(pair[ground], vision) for pair in COLOURS]
    assert min(dist(first, second) for first, second in combinations(points, 2)) > APART


def test_two_colours_that_deuteranopes_confuse_are_found_out() -> None:
    assert dist(seen("#d55e00", "deuteranopia"), seen("#b07c00", "deuteranopia")) < APART / 5


def test_dashes_and_markers_differ_without_colour() -> None:
    assert len(set(DASHES)) == len(set(MARKERS)) == len(set(SHAPES)) == len(COLOURS) == 6
