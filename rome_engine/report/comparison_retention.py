"""What later edits leave of earlier ones: lines over checkpoints, and batches by checkpoints as a coloured table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, isfinite
from typing import ClassVar

import numpy as np

from rome_engine.bench.comparison import Comparison
from rome_engine.bench.retention import Retention
from rome_engine.report.colour import ramp
from rome_engine.report.comparison_tables import retention_table
from rome_engine.report.comparison_words import figure_name, headline, unit
from rome_engine.report.curve_view import SHAPES, CurvesSection, Plot
from rome_engine.report.curves import COLOURS, Curve, Curves
from rome_engine.report.lens_page import ink
from rome_engine.report.page import Custom, Table, resource

STEPS = 24


@dataclass(frozen=True)
class Heat:
    """A table whose cells are coloured: `steps` of the scale, None for a cell that is empty, a row a batch.

    tips: what a cell says when it is pointed at; empty for a cell that is.
    """

    table: Table
    steps: Sequence[Sequence[int | None]]
    tips: Sequence[Sequence[str]]


@dataclass(frozen=True)
class RetentionSection(Custom):
    """Lines of all runs by figure, and a coloured table a run and figure."""

    curves: Sequence[Curves]
    heats: Sequence[Heat]
    template: ClassVar[str] = "retention.html.j2"

    @classmethod
    def style(cls) -> str:
        """The style sheets of lines and of coloured tables."""
        dark = "\n".join(_rules(dark=True))
        coloured = (*_rules(dark=False), f"@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}")
        return "\n".join((CurvesSection.style(), resource("retention.css"), *coloured))

    @property
    def plots(self) -> list[Plot]:
        """The geometry of the lines; what it calls layers are checkpoints."""
        return [Plot(curves) for curves in self.curves]

    @property
    def shapes(self) -> tuple[str, ...]:
        """The markers' paths."""
        return SHAPES


def retained(comparison: Comparison) -> list[Retention]:
    """The matrices that are shown: those of headline figures, by figure."""
    shown = headline(comparison)
    order = {figure.name: place for place, figure in enumerate(shown)}
    kept = [one for one in comparison.retention if one.figure.name in order]
    return sorted(kept, key=lambda one: order[one.figure.name])


def retention_curves(comparison: Comparison) -> list[Curves]:
    """All records edited until a checkpoint, over checkpoints: pictures by figure, a line a run with its band."""
    found = []
    for figure, group in groupby(retained(comparison), key=lambda one: one.figure):
        several = list(group)
        length = 1 + max(max(one.checkpoints) for one in several)
        name = figure_name(figure, comparison.figures)
        pictures = ceil(len(several) / len(COLOURS))
        every = ceil(len(several) / pictures)
        for begin in range(0, len(several), every):
            lines = several[begin : begin + every]
            found.append(
                Curves(
                    caption=f"{name} of all records edited until then",
                    subtitle="",
                    curves=tuple(_curve(one, style, length) for style, one in enumerate(lines)),
                    axis="Checkpoint",
                    measure=f"{name} ({unit(figure)})" if unit(figure) else name,
                    fixed=(-3.0, 103.0) if figure.share else None,
                    note="Bands: 95 % intervals over records.",
                )
            )
    return found


def retention_section(comparison: Comparison) -> RetentionSection | None:
    """The section; None where no run is sequential."""
    heats = [Heat(retention_table(comparison, one), _steps(one), _tips(one)) for one in retained(comparison)]
    return RetentionSection("Retention", retention_curves(comparison), heats) if heats else None


def _curve(kept: Retention, style: int, length: int) -> Curve:
    scale = 100.0 if kept.figure.share else 1.0
    columns = []
    for name in ("value", "low", "high"):
        values = [getattr(found, name) for found in kept.overall]
        there = [(at, scale * value) for at, value in zip(kept.checkpoints, values, strict=True) if value is not None]
        ats, points = zip(*there, strict=True) if there else ((0,), (np.nan,))
        # A line from one measured checkpoint to the next, where those between were not measured.
        columns.append(np.interp(np.arange(length), ats, points, left=np.nan, right=np.nan))
    return Curve(kept.label, columns[0], style, (columns[1], columns[2]))


def _steps(kept: Retention) -> list[list[int | None]]:
    """Strong colours are great values: of a share from 0 to 1, of other figures from the least to the greatest."""
    values = kept.values
    finite = values[np.isfinite(values)]
    low, high = (0.0, 1.0) if kept.figure.share else (float(finite.min()), float(finite.max()))
    span = high - low or 1.0
    return [
        [round((STEPS - 1) * (value - low) / span) if isfinite(value) else None for value in row]
        for row in values.tolist()
    ]


def _tips(kept: Retention) -> list[list[str]]:
    return [[f"n = {one.n}" if one.n else "" for one in line] for line in kept.cells]


def _rules(*, dark: bool) -> list[str]:
    colours = ramp("mlp", STEPS, dark=dark)
    return [f".heat .h{step} {{ background: {one}; color: {ink(one)}; }}" for step, one in enumerate(colours)]
