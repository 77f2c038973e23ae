"""Tracing, edit success and their correlation as curves, one below the other on one axis of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from rome_engine.bench.locate_controls import mean_of
from rome_engine.bench.locate_result import SCORES, LocateEdit, Tracing
from rome_engine.bench.statistics import Estimate
from rome_engine.report.curve_view import SHAPES, CurvesSection, Drawn, Plot
from rome_engine.report.curves import Curve, Curves
from rome_engine.report.page import resource
from rome_engine.report.reading import number
from rome_engine.trace import bootstrap

AXIS = "Layer (a window's centre; the last of several edited ones)"
DRAWN = ("rewrite", "es", "ps", "ns")
"""The rewrite magnitude goes along with the rewrite score; it and what is said freely are in the tables."""
FIRST_STYLE = 2
"""The scores' first line style; those before are the maps'."""


def curves(found: LocateEdit) -> list[Curves]:
    """Tracing over all layers, edit success and the correlation of the two at the edited ones."""
    counted = f"{found.model} · n = {len(found.facts)} facts"
    bands = "Bands: 95 % intervals over facts."
    return [
        Curves(
            "Tracing: what restoring states of the last subject token brings back", counted,
            tuple(_traced(one, style, found.seed) for style, one in enumerate(found.tracing)),
            AXIS, "Indirect effect (probability)", note=bands,
        ),
        Curves(
            f"Editing: what {found.method} reaches at each layer", counted,
            tuple(
                _estimates(found, SCORES[name], FIRST_STYLE + place, _means(found, name))
                for place, name in enumerate(DRAWN)
            ),
            AXIS, "Mean over facts", note=f"{bands} Edited were the layers with a marker.",
        ),
        Curves(
            f"Both: correlation over facts of tracing effect and {SCORES[found.score]}", counted,
            tuple(
                _estimates(found, one.name, style, found.relation(one.name, found.score).by_layer)
                for style, one in enumerate(found.tracing)
            ),
            AXIS, "Pearson correlation", fixed=(-1.05, 1.05),
            note=f"{bands} Each layer by itself; an interval that holds 0 shows no relation.",
        ),
    ]  # fmt: skip


def _traced(one: Tracing, style: int, seed: int) -> Curve:
    return Curve(one.name, bootstrap.mean(one.effect), style, bootstrap.band(one.effect, seed=seed))


def _means(found: LocateEdit, name: str) -> list[Estimate]:
    """Of one score at each edited layer."""
    return [mean_of(column, name, found.seed) for column in found.scores[name].T]


def _estimates(found: LocateEdit, name: str, style: int, estimates: Sequence[Estimate]) -> Curve:
    """Estimates at the edited layers, NaN between these."""
    columns = np.array([[one.value, one.low, one.high] for one in estimates], dtype=np.float64).T
    value, low, high = np.full((3, found.n_layers), np.nan)
    for every, some in zip((value, low, high), columns, strict=True):
        every[list(found.layers)] = some
    return Curve(name, value, style, (low, high))


@dataclass(frozen=True, eq=False)
class LayersPlot(Plot):
    """A picture whose curves may have numbers at some layers only: these get a marker each, and a line through them."""

    @property
    def table(self) -> list[list[str]]:
        """The rows of layers with a number."""
        there = np.isfinite(np.stack([curve.values for curve in self.curves.curves], axis=1))  # (layers, curves)
        return [row for row, finite in zip(super().table, there, strict=True) if finite.any()]

    def _draw(self, curve: Curve) -> Drawn:
        drawn = super()._draw(curve)
        there = np.flatnonzero(np.isfinite(curve.values)).tolist()
        if len(there) == len(curve.values):
            return drawn
        points = [(layer, float(curve.values[layer])) for layer in there]
        return replace(
            drawn,
            line="".join(
                f"{'L' if place else 'M'}{self._x(layer)} {self._y(value)}"
                for place, (layer, value) in enumerate(points)
            ),
            markers=tuple(
                (
                    f"M{self._x(layer)} {self._y(value)}{SHAPES[curve.style]}",
                    f"{curve.name}, layer {layer}: {number(value, signed=True)}",
                )
                for layer, value in points
            ),
        )


@dataclass(frozen=True)
class StackedCurves(CurvesSection):
    """Pictures one below the other, so that layers lie above one another."""

    template: ClassVar[str] = "locate.html.j2"

    @classmethod
    def style(cls) -> str:
        """That of curves, in one column."""
        return super().style() + resource("locate.css")

    @property
    def plots(self) -> list[Plot]:
        """The geometry of every picture."""
        return [LayersPlot(curves) for curves in self.curves]
