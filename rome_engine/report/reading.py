"""What every view of a trace says in the same words: labels, numbers, limits of the scale, the strongest cells."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np

from rome_engine.trace.result import Trace

SMALL_EFFECT = 0.05
"""A total effect (high - low) under this many units of probability is too small to localise."""

MISSING = "–"
CAVEAT = (
    "A strong cell shows where restoring a state brings the answer back. It is weak evidence of where an edit works "
    "best (Hase et al. 2023): measure the edit at several layers instead of taking the strongest one."
)
STATES = {"hidden": "hidden state", "mlp": "MLP output", "attn": "attention output"}
NAMES = {"hidden": "Hidden state", "mlp": "MLP", "attn": "Attention"}
VISIBLE = {"\n": "↵", "\r": "␍", "\t": "⇥"}


@dataclass(frozen=True)
class Cell:
    """One cell of a map: what restoring the state at (position, layer) gives."""

    position: int
    layer: int
    label: str
    score: float
    effect: float


def number(value: float, *, signed: bool = False) -> str:
    """Three decimals; powers of ten where those would show zero; a dash for what is not finite."""
    if not isfinite(value):
        return MISSING
    if 0 < abs(value) < 0.0005:
        mantissa, exponent = f"{abs(value):.1e}".split("e")
        size = f"{mantissa}e{int(exponent)}"
    else:
        size = f"{abs(value):.3f}"
    return ("−" if value < 0 else "+" if signed and value > 0 else "") + size


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


def heading(trace: Trace) -> str:
    """The kind of state and the window, in words."""
    state = STATES.get(trace.kind, trace.kind)
    if trace.window == 1:
        return f"Restoring the {state} of one layer"
    return f"Restoring the {state} in windows of {trace.window} layers"


def limits(trace: Trace) -> tuple[float, float]:
    """The least and the greatest value of the colour scale, in probability.

    The scale holds every finite score and `low`, and never spans less than SMALL_EFFECT: noise is no map.
    """
    shown = trace.scores[np.isfinite(trace.scores)]
    values = [float(shown.min()), float(shown.max())] if shown.size else []
    if isfinite(trace.low):
        values += [trace.low, trace.low + SMALL_EFFECT]
    if not values:
        return 0.0, 1.0
    bottom = min(values)
    return bottom, max(*values, bottom + SMALL_EFFECT)


def too_small(trace: Trace) -> str | None:
    """Why this trace localises nothing, or None where its total effect reaches SMALL_EFFECT."""
    # Written so that a total effect that is not a number counts as too small.
    if trace.total_effect >= SMALL_EFFECT:
        return None
    return (
        f"Total effect {number(trace.total_effect, signed=True)} (high {number(trace.high)}, low {number(trace.low)}) "
        f"is under {SMALL_EFFECT}: too small to localise. No cell of this map should be read as a location."
    )


def strongest(trace: Trace, count: int = 3) -> tuple[Cell, ...]:
    """The peaks of the `count` tokens that peak highest, one cell a token, best first.

    One a token, because neighbouring layers of the same token say the same thing. Scores that are not finite
    are passed over.
    """
    scores = np.where(np.isfinite(trace.scores), trace.scores, -np.inf)  # (tokens, layers)
    layers = scores.argmax(axis=1)
    peaks = scores.max(axis=1)
    names = labels(trace)
    order = [int(position) for position in np.argsort(-peaks, kind="stable") if np.isfinite(peaks[position])]
    return tuple(
        Cell(
            position, int(layers[position]), names[position], float(peaks[position]), float(peaks[position]) - trace.low
        )
        for position in order[:count]
    )
