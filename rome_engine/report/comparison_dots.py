"""Estimates as dots with whiskers, a row each: figures of runs, and differences of pairs of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from rome_engine.bench.comparison import Comparison
from rome_engine.bench.figures import Figure
from rome_engine.bench.statistics import Estimate
from rome_engine.report.comparison_words import LESS, estimated, figure_name, headline, p_value, shortened, unit
from rome_engine.report.page import Custom, resource
from rome_engine.report.ticks import round_ticks

ALPHA = 0.05
WIDTH, LEFT, RIGHT, TOP, ROW, BOTTOM = 640.0, 210.0, 16.0, 8.0, 24.0, 44.0  # units of the drawing
LETTERS = 28
"""Of a row's label: so many fit."""


@dataclass(frozen=True)
class Dot:
    """A row: a value, its interval's ends where there is one, `ghost` a value to compare with; filled or hollow."""

    short: str
    value: float
    low: float | None
    high: float | None
    ghost: float | None
    filled: bool
    tip: str


@dataclass(frozen=True)
class Dots:
    """One picture. zero: whether zero is drawn across, as for differences."""

    caption: str
    axis: str
    dots: tuple[Dot, ...]
    zero: bool
    note: str

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest value to be drawn, with room around."""
        values = [
            value for dot in self.dots for value in (dot.value, dot.low, dot.high, dot.ghost) if value is not None
        ]
        values = [value for value in (*values, *([0.0] if self.zero else [])) if isfinite(value)]
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
        return low - room, high + room


@dataclass(frozen=True)
class Drawing:
    """The geometry of a picture."""

    dots: Dots

    @property
    def height(self) -> float:
        """Of the drawing."""
        return self.foot + BOTTOM

    @property
    def foot(self) -> float:
        """Where the axis lies."""
        return TOP + ROW * len(self.dots.dots)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """(place, number) of the axis."""
        return [(self.x(value), text) for value, text in round_ticks(*self.dots.limits)]

    @property
    def rows(self) -> list[tuple[float, Dot]]:
        """(height, dot) of every row."""
        return [(TOP + ROW * (place + 0.5), dot) for place, dot in enumerate(self.dots.dots)]

    def x(self, value: float) -> float:
        """The place of a value."""
        low, high = self.dots.limits
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low), 2)


@dataclass(frozen=True)
class DotsSection(Custom):
    """Pictures of dots under one heading."""

    pictures: Sequence[Dots]
    template: ClassVar[str] = "dots.html.j2"

    @classmethod
    def style(cls) -> str:
        """The style sheet."""
        return "\n" + resource("dots.css")

    @property
    def drawings(self) -> list[Drawing]:
        """The geometry of every picture."""
        return [Drawing(one) for one in self.pictures]


def figure_dots(comparison: Comparison) -> dict[str, Dots]:
    """By figure a picture, a row a run: after the edits with its interval, before as a ring. Headline figures first."""
    found = {}
    names = shortened([line.label for line in comparison.entries], LETTERS)
    for figure in _ordered(comparison):
        dots = []
        for line in comparison.entries:
            score = line.of(figure.name)
            if score is not None and score.after.value is not None:
                before = None if score.before.value is None else _scale(score.before.value, figure)
                dots.append(_dot([line.label], names, score.after, figure, before, True, f"n = {score.after.n}"))
        if dots:
            name = figure_name(figure, comparison.figures)
            better = {True: "more is better", False: "less is better", None: ""}[figure.higher]
            rings = " Rings: the untouched model." if any(dot.ghost is not None for dot in dots) else ""
            note = f"Dots: after the edits, with 95 % intervals.{rings}"
            caption = " · ".join(filter(None, (name, better)))
            found[figure.name] = Dots(caption, _axis(name, figure), tuple(dots), False, note)
    return found


def difference_dots(comparison: Comparison) -> dict[str, Dots]:
    """By figure a picture, a row a pair of runs: first less second with its interval, filled where significant."""
    found = {}
    names = shortened([line.label for line in comparison.entries], (LETTERS - len(LESS)) // 2)
    for figure in _ordered(comparison):
        name = figure_name(figure, comparison.figures)
        dots = [
            _dot(
                [pair.first, pair.second],
                names,
                pair.difference,
                figure,
                None,
                pair.corrected is not None and pair.corrected < ALPHA,
                f"n = {pair.n}, p (Holm) {p_value(pair.corrected)}",
                signed=True,
            )
            for pair in comparison.pairs
            if pair.figure == figure and pair.difference.value is not None
        ]
        if dots:
            note = f"With 95 % intervals; filled where p (Holm) < {ALPHA}."
            axis = _axis(f"difference in {name}", figure).replace("%", "points")
            found[figure.name] = Dots(f"{name}: first − second", axis, tuple(dots), True, note)
    return found


def _ordered(comparison: Comparison) -> list[Figure]:
    first = headline(comparison)
    return [*first, *(figure for figure in comparison.figures if figure not in first)]


def _axis(name: str, figure: Figure) -> str:
    return f"{name} ({unit(figure)})" if unit(figure) else name


def _scale(value: float, figure: Figure) -> float:
    return 100 * value if figure.share else value


def _dot(
    of: Sequence[str],
    names: Mapping[str, str],
    found: Estimate,
    figure: Figure,
    ghost: float | None,
    filled: bool,
    told: str,
    *,
    signed: bool = False,
) -> Dot:
    """The row of a run, or of two. names: the runs' labels in the room there is; the tip has them whole."""
    assert found.value is not None
    ends = [None if end is None else _scale(end, figure) for end in (found.low, found.high)]
    tip = f"{LESS.join(of)}: {estimated(found, figure, signed=signed)}, {told}"
    return Dot(LESS.join(names[one] for one in of), _scale(found.value, figure), ends[0], ends[1], ghost, filled, tip)
