"""Colour scales: lightness carries the value, so they survive grey printing and every kind of colour blindness.

A scale runs through three anchors, straight between them in OKLab (Ottosson 2020) and in steps of equal length, hence
perceptually uniform. All scales of one scheme start at the same neutral, so that a positive and a negative one join
at zero.
"""

from __future__ import annotations

from itertools import pairwise
from math import dist

Point = tuple[float, float, float]

NEUTRAL = {False: "#f6f5f2", True: "#232228"}
GREY = {False: ("#9b9a97", "#3a3937"), True: ("#6f6e74", "#d5d4da")}

# The paper's hues: purple hidden states, green MLPs, red attention; the residual stream's other places lie beside
# purple, heads beside red. By (kind, dark): middle and end.
POSITIVE = {
    ("hidden", False): ("#a68dd2", "#3b1877"),
    ("mlp", False): ("#64b18e", "#074435"),
    ("attn", False): ("#e28d6d", "#771320"),
    ("hidden", True): ("#7d61c4", "#eae0ff"),
    ("mlp", True): ("#2d8a67", "#d6f8e7"),
    ("attn", True): ("#bd523b", "#ffe3d8"),
    ("head", False): ("#d69a3c", "#633203"),
    ("pre", False): ("#7fa6d9", "#14366f"),
    ("mid", False): ("#cf86b8", "#64114f"),
    ("head", True): ("#a16a12", "#ffe8bd"),
    ("pre", True): ("#3d72b3", "#dbe9ff"),
    ("mid", True): ("#a74a8d", "#ffe0f4"),
}
# Each paired with the hue that colour-blind readers tell from it best: purple-orange, green-brown, red-blue.
NEGATIVE = {
    ("hidden", False): ("#dfa445", "#744000"),
    ("mlp", False): ("#c9a16c", "#64400f"),
    ("attn", False): ("#72a5d8", "#113c75"),
    ("hidden", True): ("#a3690f", "#ffe5b0"),
    ("mlp", True): ("#916636", "#f7e2c6"),
    ("attn", True): ("#2f6cae", "#d6e8ff"),
    ("head", False): ("#77a9d2", "#123f6c"),
    ("pre", False): ("#d9a05a", "#6e3d06"),
    ("mid", False): ("#9fb05a", "#3d4a0c"),
    ("head", True): ("#316fa6", "#d8ecff"),
    ("pre", True): ("#9d6b1c", "#ffe6bd"),
    ("mid", True): ("#6f7f2a", "#eef6c9"),
}


def ramp(kind: str, steps: int = 64, *, dark: bool = False, negative: bool = False) -> tuple[str, ...]:
    """`steps` hex colours from neutral to strongest, for a dark or a light ground.

    A kind that has no hue of its own gets grey, the colour of "not to be read as a location".
    """
    table = NEGATIVE if negative else POSITIVE
    anchors = [_to_oklab(colour) for colour in (NEUTRAL[dark], *table.get((kind, dark), GREY[dark]))]
    lengths = [dist(first, second) for first, second in pairwise(anchors)]
    colours = []
    for step in range(steps):
        travelled = sum(lengths) * step / max(1, steps - 1)
        part = 0 if travelled <= lengths[0] else 1
        share = (travelled - sum(lengths[:part])) / lengths[part]
        first, second = anchors[part], anchors[part + 1]
        lightness, a, b = (x + share * (y - x) for x, y in zip(first, second, strict=True))
        colours.append(_to_hex((lightness, a, b)))
    return tuple(colours)


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green, blue in 0..255 of "#rrggbb"."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _to_oklab(colour: str) -> Point:
    red, green, blue = (_linear(channel / 255) for channel in rgb(colour))
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    medium = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def _to_hex(point: Point) -> str:
    lightness, a, b = point
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    channels = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _encoded(channel)):02x}" for channel in channels)


def _linear(channel: float) -> float:
    """The sRGB transfer curve undone: channel in 0..1 to light."""
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)


def _encoded(light: float) -> float:
    light = min(1.0, max(0.0, light))
    return 12.92 * light if light <= 0.0031308 else float(1.055 * light ** (1 / 2.4) - 0.055)
