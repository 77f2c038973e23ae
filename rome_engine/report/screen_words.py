"""A screen in words: the runs' own values, which numbers are approximate, and what was missed."""

from __future__ import annotations

from typing import Any

from rome_engine.report.naming import corruption_name
from rome_engine.report.reading import MISSING, number, small_effect, visible
from rome_engine.trace.screened import Screen

WIDE = 0.25
"""An interval wider than this says little."""
UNITS = {"log_probability": "nats", "logit_difference": "logits", "probability": "probability"}
TWICE = "In a window, what passes from layer to layer is counted twice."


def title(found: Screen) -> str:
    """What was screened, and in what unit."""
    what = "brings back" if found.direction == "restore" else "takes away"
    answer = f"“{visible(found.answer)}”"
    return f"What {what} {answer}, in {UNITS[found.metric]} of {found.metric.replace('_', ' ')} · {found.model}"


def ends(found: Screen) -> str:
    """The metric in both runs, and what lies between them."""
    return (
        f"{corruption_name(found.corruption).capitalize()}: high {number(found.high)}, low {number(found.low)}, "
        f"total effect {number(found.total_effect, signed=True)}."
    )


def warning(found: Screen) -> str | None:
    """Why this screen localises nothing, or None."""
    return small_effect(*found.probabilities, found.metric)


def limits(found: Screen) -> str:
    """Which numbers are approximate, and which exact."""
    missed = found.missed
    verified = missed.top + missed.sampled
    twice = f" {TWICE}" if max(one.window for one in found.maps) > 1 else ""
    return (
        f"Approximate: by gradients, for all {found.cells} cells; to first order, so for large changes it can be far "
        f"off.{twice} Exact: {verified} cells, the top {missed.top} by size of the approximation and {missed.sampled} "
        f"of the other {missed.rest} at random ({found.engine} engine); {found.cells - verified} cells are approximate "
        "only."
    )


def correlations(found: Screen) -> str:
    """How approximate and exact effects of the verified cells correlate."""
    parts = []
    for chosen, one in found.agreement.items():
        rank, linear = (MISSING if value is None else f"{value:.2f}" for value in (one.spearman, one.pearson))
        parts.append(f"{rank} in rank, {linear} linear over the {one.cells} {chosen} cells")
    return f"Correlation of approximate and exact: {'; '.join(parts)}."


def missed_line(found: Screen) -> str:
    """What share of the cells that matter the screen missed, with its interval."""
    missed = found.missed
    matter = f"cells that matter (at least {missed.share:.0%} of the strongest exact effect)"
    if missed.low is None or missed.high is None:
        return f"Missed: no verified cell has any effect, so there are no {matter}."
    if missed.rest == 0:
        return f"Missed: none of the {matter}: all cells were verified."
    if missed.estimate is None:
        return f"Missed: unknown, at most {missed.high:.0%} of the {matter}: verify some of the others (--random)."
    seen = (
        f"{missed.sampled_matter} of the {missed.sampled} random cells and {missed.top_matter} of the top {missed.top}"
    )
    wide = " More random cells (--random) narrow the interval." if missed.high - missed.low > WIDE else ""
    return (
        f"Missed: an estimated {missed.estimate:.0%} (95 % interval {missed.low:.0%} to {missed.high:.0%}) of the "
        f"{matter}; {seen} matter.{wide}"
    )


def verified(found: Screen) -> list[dict[str, Any]]:
    """The rows of the verified cells, those with the largest exact effects first."""
    return sorted((row for row in found.rows() if row["chosen"]), key=lambda row: -abs(row["exact"]))


def token_name(found: Screen, position: int) -> str:
    """A token's place and text, the subject's starred."""
    begin, end = found.subject_range
    return f"{position} {visible(found.tokens[position])}" + ("*" if begin <= position < end else "")


def state_name(row: dict[str, Any]) -> str:
    """What was exchanged."""
    state = row["kind"] if row["head"] is None else f"head {row['head']}"
    return str(state) if row["window"] == 1 else f"{state}, {row['window']} layers"
