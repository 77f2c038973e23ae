"""What every view of a trace says in the same words: labels, numbers, limits of the scale, the strongest cells."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from rome_engine.trace.average import SMALL_EFFECT
from rome_engine.trace.average_map import FALLING
from rome_engine.trace.result import Trace

MISSING = "–"
CAVEAT = (
    "A strong cell shows where restoring a state brings the answer back. It is weak evidence of where an edit works "
    "best (Hase et al. 2023): measure the edit at several layers instead of taking the strongest one."
)
NECESSITY_CAVEAT = (
    "A strong cell shows where corrupting a state takes the answer away. It is weak evidence of where an edit works "
    "best (Hase et al. 2023): measure the edit at several layers instead of taking the strongest one."
)
VISIBLE = {"\n": "↵", "\r": "␍", "\t": "⇥"}


@dataclass(frozen=True)
class Cell:
    """One cell of a map: what exchanging the state at (position, layer) gives."""

    position: int
    layer: int
    label: str
    score: float
    effect: float


def number(value: float, *, signed: bool = False) -> str:
    """Three decimals, fewer from 100 on; powers of ten where those would show zero; a dash for what is not finite."""
    if not isfinite(value):
        return MISSING
    if 0 < abs(value) < 0.0005:
        mantissa, exponent = f"{abs(value):.1e}".split("e")
        size = f"{mantissa}e{int(exponent)}"
    else:
        size = f"{abs(value):.{3 if abs(value) < 100 else 1 if abs(value) < 1000 else 0}f}"
    return ("−" if value < 0 else "+" if signed and value > 0 else "") + size


def interval(low: float, high: float, *, signed: bool = True) -> str:
    """An interval in brackets; a dash where it is not known."""
    if not (isfinite(low) and isfinite(high)):
        return MISSING
    return f"[{number(low, signed=signed)}, {number(high, signed=signed)}]"


def visible(text: str) -> str:
    """A token's text for a label: no surrounding blanks, and white space and controls made visible."""
    shown = text.strip(" ")
    if not shown:
        return "␣" * len(text) or "∅"
    return "".join(letter if letter.isprintable() else VISIBLE.get(letter, f"\\x{ord(letter):02x}") for letter in shown)


def labels(trace: Trace) -> tuple[str, ...]:
    """One label a token, the subject's starred as in the paper."""
    begin, end = trace.subject_range
    return tuple(visible(text) + ("*" if begin <= position < end else "") for position, text in enumerate(trace.tokens))


def asked(trace: Trace) -> tuple[int, ...]:
    """The tokens that a view shows: those with a cell that was asked for, or all where there is none."""
    rows = np.flatnonzero(~np.isnan(trace.scores).all(axis=1))
    return tuple(rows.tolist()) or tuple(range(len(trace.tokens)))


def not_asked(trace: Trace) -> str | None:
    """What is said of tokens that are not shown, or None."""
    left = len(trace.tokens) - len(asked(trace))
    return None if not left else f"{left} of {len(trace.tokens)} tokens were not asked for and are not shown."


def base(trace: Trace) -> float:
    """The value of the run that is patched: what a cell without effect shows."""
    return trace.low if trace.direction == "restore" else trace.high


def rising(trace: Trace) -> bool:
    """Whether strong cells have great values: not where states are corrupted, nor in metrics that fall with success."""
    return (trace.direction == "restore") == (trace.metric not in FALLING)


def limits(trace: Trace) -> tuple[float, float]:
    """The least and the greatest value of the colour scale, in the trace's metric.

    The scale holds every finite score and the patched run's own value, and never spans less than SMALL_EFFECT of
    probability, or than that share of the total effect in other metrics: noise is no map.
    """
    least = least_span(trace.metric, trace.total_effect)
    shown = trace.scores[np.isfinite(trace.scores)]
    values = [float(shown.min()), float(shown.max())] if shown.size else []
    if isfinite(start := base(trace)):
        values += [start, start + least if rising(trace) else start - least]
    if not values:
        return 0.0, 1.0
    if rising(trace):
        return min(values), max(*values, min(values) + least)
    return min(*values, max(values) - least), max(values)


def least_span(metric: str, total_effect: float) -> float:
    """The least span of a scale of values in this metric: noise is no map."""
    if metric == "probability":
        return SMALL_EFFECT
    return max(SMALL_EFFECT * abs(total_effect), 1e-3) if isfinite(total_effect) else 1e-3


def too_small(trace: Trace) -> str | None:
    """Why this trace localises nothing, or None where its total effect reaches SMALL_EFFECT of probability.

    Traces in another metric are judged by their probabilities, and where these are missing only by being finite.
    """
    if trace.metric != "probability" and "probability" not in trace.others:
        return (
            None
            if isfinite(trace.total_effect)
            else "Total effect –: no cell of this map should be read as a location."
        )
    shown = trace.of("probability")
    return small_effect(shown.high, shown.low, trace.metric)


def small_effect(high: float, low: float, metric: str) -> str | None:
    """Why probabilities of `high` and `low` in the two runs localise nothing, or None; `metric` is what is shown."""
    # Written so that a total effect that is not a number counts as too small.
    if high - low >= SMALL_EFFECT:
        return None
    where = "" if metric == "probability" else " of probability"
    return (
        f"Total effect{where} {number(high - low, signed=True)} (high {number(high)}, low {number(low)}) is under "
        f"{SMALL_EFFECT}: too small to localise. No cell of this map should be read as a location."
    )


def peaks(strength: NDArray[np.float64], count: int) -> list[tuple[int, int]]:
    """(row, column) of the peaks of the `count` rows that peak highest, one a row, best first.

    One a row, because neighbouring layers of the same token say the same thing. What is not finite is passed over.
    """
    finite = np.where(np.isfinite(strength), strength, -np.inf)
    columns, heights = finite.argmax(axis=1), finite.max(axis=1)
    order = [int(row) for row in np.argsort(-heights, kind="stable") if np.isfinite(heights[row])]
    return [(row, int(columns[row])) for row in order[:count]]


def strongest(trace: Trace, count: int = 3) -> tuple[Cell, ...]:
    """The peaks of the `count` tokens that peak highest, one cell a token, best first."""
    names, effects = labels(trace), trace.indirect_effect
    return tuple(
        Cell(row, layer, names[row], float(trace.scores[row, layer]), float(effects[row, layer]))
        for row, layer in peaks(trace.scores if rising(trace) else -trace.scores, count)
    )
