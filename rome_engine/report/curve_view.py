"""Curves over layers as inline SVG, which follows the page's light or dark ground, with their numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rome_engine.report.curves import COLOURS, DASHES, Curve, Curves
from rome_engine.report.page import Custom, resource
from rome_engine.report.reading import interval, number

WIDTH, HEIGHT = 640.0, 300.0  # units of the drawing
LEFT, RIGHT, TOP, BOTTOM = 58.0, 12.0, 12.0, 44.0
SHAPES = (
    "m-3.4 0a3.4 3.4 0 1 0 6.8 0a3.4 3.4 0 1 0 -6.8 0z",
    "m-3 -3h6v6h-6z",
    "m0 -4l3.8 6.8h-7.6z",
    "m0 -4.2l4.2 4.2l-4.2 4.2l-4.2 -4.2z",
    "m0 4l3.8 -6.8h-7.6z",
    "m-3.6 -1.4l2.2 -2.2l1.4 1.4l1.4 -1.4l2.2 2.2l-1.4 1.4l1.4 1.4l-2.2 2.2l-1.4 -1.4l-1.4 1.4l-2.2 -2.2l1.4 -1.4z",
)
"""One a marker of curves.MARKERS, around the point."""


@dataclass(frozen=True)
class Drawn:
    """A curve's line, band and markers (path, what it says) as SVG paths."""

    name: str
    style: int
    line: str
    band: str
    markers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Plot:
    """The geometry of one picture of curves."""

    curves: Curves

    @property
    def drawn(self) -> list[Drawn]:
        """Every curve."""
        return [self._draw(curve) for curve in self.curves.curves]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(height, number) of the axis of values."""
        low, high = self.curves.limits
        distance = _round_step(high - low)
        first = int(np.ceil(low / distance))
        values = [distance * place for place in range(first, int(np.floor(high / distance)) + 1)]
        decimals = max(0, -int(np.floor(np.log10(distance))))
        return [(self._y(value), f"{value:.{decimals}f}".replace("-", "−")) for value in values]

    @property
    def layers(self) -> list[tuple[float, int]]:
        """(place, layer) of the axis of layers."""
        count = self._layers
        distance = next((step for step in (1, 2, 5, 10, 20, 50) if count / step <= 16), 100)
        return [(self._x(layer), layer) for layer in range(0, count, distance)]

    @property
    def zero(self) -> float:
        """The height of zero."""
        return self._y(0.0)

    @property
    def marks(self) -> list[tuple[float, str, bool]]:
        """(height, words, whether a line is drawn) of the levels."""
        return [(self._y(level), words, inside) for level, words, inside in self.curves.placed_marks()]

    @property
    def table(self) -> list[list[str]]:
        """A row a layer: every curve's value with its interval."""
        rows = []
        for layer in range(self._layers):
            row = [str(layer)]
            for curve in self.curves.curves:
                band = "" if curve.band is None else " " + interval(*(float(side[layer]) for side in curve.band))
                row.append(number(float(curve.values[layer]), signed=True) + band)
            rows.append(row)
        return rows

    @property
    def _layers(self) -> int:
        return len(self.curves.curves[0].values)

    def _x(self, layer: int) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (layer + 0.5) / self._layers, 2)

    def _y(self, value: float) -> float:
        low, high = self.curves.limits
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low), 2)

    def _draw(self, curve: Curve) -> Drawn:
        band = ""
        if curve.band is not None:
            there = np.flatnonzero(np.isfinite(curve.band[0]) & np.isfinite(curve.band[1])).tolist()
            points = [(layer, curve.band[1][layer]) for layer in there]
            points += [(layer, curve.band[0][layer]) for layer in there[::-1]]
            band = "M" + "L".join(f"{self._x(x)} {self._y(float(y))}" for x, y in points) + "Z" if points else ""
        every = max(1, self._layers // 10)
        markers = tuple(
            (
                f"M{self._x(layer)} {self._y(float(curve.values[layer]))}{SHAPES[curve.style]}",
                f"{curve.name}, layer {layer}: {number(float(curve.values[layer]), signed=True)}",
            )
            for layer in range(curve.style % every, self._layers, every)
            if np.isfinite(curve.values[layer])
        )
        return Drawn(curve.name, curve.style, self._line(curve.values), band, markers)

    def _line(self, values: NDArray[np.float64]) -> str:
        """The path, with gaps where there are no numbers."""
        pen, path = "M", ""
        for layer, value in enumerate(values.tolist()):
            if np.isfinite(value):
                path += f"{pen}{self._x(layer)} {self._y(value)}"
                pen = "L"
            else:
                pen = "M"
        return path


def _round_step(span: float) -> float:
    """The distance of 1, 2 or 5 times a power of ten that gives at most seven ticks."""
    power = 10.0 ** np.floor(np.log10(span / 6))
    return float(power * next(factor for factor in (1, 2, 5, 10) if span / (factor * power) <= 7))


@dataclass(frozen=True)
class CurvesSection(Custom):
    """Pictures of curves under one heading."""

    curves: Sequence[Curves]
    template: ClassVar[str] = "curves.html.j2"

    @classmethod
    def style(cls) -> str:
        """The style sheet with the lines' colours and dashes."""
        light, dark = (
            "".join(f"--line-{at}: {pair[ground]}; " for at, pair in enumerate(COLOURS)) for ground in (0, 1)
        )
        dashes = "\n".join(
            f"path.line-{at} {{ stroke: var(--line-{at}); stroke-dasharray: "
            f"{' '.join(f'{length * 1.8:g}' for length in dash) or 'none'}; }}\n"
            f"path.band-{at}, path.marker-{at} {{ fill: var(--line-{at}); }}"
            for at, dash in enumerate(DASHES)
        )
        return (
            f"\n:root {{ {light}}}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}\n{dashes}\n"
            + resource("curves.css")
        )

    @property
    def plots(self) -> list[Plot]:
        """The geometry of every picture."""
        return [Plot(curves) for curves in self.curves]

    @property
    def shapes(self) -> tuple[str, ...]:
        """The markers' paths."""
        return SHAPES
