"""A screen in the terminal and as a file: the strongest cells, and what is approximate and what was missed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rome_engine.files import suffix_among, write_whole
from rome_engine.report.page import finite
from rome_engine.report.reading import MISSING, number, visible
from rome_engine.report.tables import save_table
from rome_engine.trace.screened import Screen

SUFFIXES = (".json", ".csv", ".parquet")
WIDE = 0.25
"""An interval wider than this says little."""
UNITS = {"log_probability": "nats", "logit_difference": "logits", "probability": "probability"}


def screen_table(found: Screen, shown: int = 20) -> RenderableType:
    """The verified cells with the strongest exact effects, approximate beside exact, and the screen's own limits."""
    verified = sorted((row for row in found.rows() if row["chosen"]), key=lambda row: -abs(row["exact"]))
    table = Table(box=None)
    table.add_column("token")
    table.add_column("layer", justify="right")
    table.add_column("state")
    table.add_column("approximate", justify="right")
    table.add_column("exact", justify="right")
    table.add_column("verified as")
    for row in verified[:shown]:
        table.add_row(
            Text(_token(found, row["token"])),
            str(row["layer"]),
            _state(row),
            number(row["approximate"], signed=True),
            number(row["exact"], signed=True),
            "one of the top" if row["chosen"] == "top" else "a random one",
        )
    if len(verified) > shown:
        table.add_row(Text(f"{len(verified) - shown} others", "dim"), style="dim")
    lines = (Text(line, "dim") for line in (_limits(found), _agreement(found)))
    return Group(Text(_title(found), "bold"), table, *lines, Text(missed_line(found)))


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


def save_screen(found: Screen, path: Path) -> None:
    """Save a screen as what the suffix says: .json all of it, .csv .parquet its tidy rows.

    Raises StorageError for another suffix and where it cannot be written.
    """
    if suffix_among(path, SUFFIXES) == ".json":
        text = json.dumps(finite(found.to_dict()), ensure_ascii=False, allow_nan=False, default=str)
        write_whole(path, (text + "\n").encode("utf-8", "backslashreplace"))
        return
    record = {name: value for name, value in found.to_dict().items() if name not in ("maps", "tokens", "provenance")}
    save_table(found.rows(), path, {**record, **found.provenance})


def _title(found: Screen) -> str:
    what = "brings back" if found.direction == "restore" else "takes away"
    answer = f"“{visible(found.answer)}”"
    return f"What {what} {answer}, in {UNITS[found.metric]} of {found.metric.replace('_', ' ')} · {found.model}"


def _limits(found: Screen) -> str:
    missed = found.missed
    verified = missed.top + missed.sampled
    wide = max(one.window for one in found.maps) > 1
    twice = " In a window, what passes from layer to layer is counted twice." if wide else ""
    return (
        f"Approximate: by gradients, for all {found.cells} cells; to first order, so for large changes it can be far "
        f"off.{twice} Exact: {verified} cells, the top {missed.top} by size of the approximation and {missed.sampled} "
        f"of the other {missed.rest} at random ({found.engine} engine); {found.cells - verified} cells are approximate "
        "only."
    )


def _agreement(found: Screen) -> str:
    parts = []
    for chosen, words in (("top", "top"), ("random", "random")):
        one = found.agreement[chosen]
        rank, linear = (MISSING if value is None else f"{value:.2f}" for value in (one.spearman, one.pearson))
        parts.append(f"{rank} in rank, {linear} linear over the {one.cells} {words} cells")
    return f"Correlation of approximate and exact: {'; '.join(parts)}."


def _token(found: Screen, position: int) -> str:
    begin, end = found.subject_range
    return f"{position} {visible(found.tokens[position])}" + ("*" if begin <= position < end else "")


def _state(row: dict[str, Any]) -> str:
    state = row["kind"] if row["head"] is None else f"head {row['head']}"
    return state if row["window"] == 1 else f"{state}, {row['window']} layers"
