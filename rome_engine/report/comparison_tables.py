"""A comparison as tables: the leaderboard, published results, every figure, pairs, disagreements, retention."""

from __future__ import annotations

from collections.abc import Sequence

from rome_engine.bench.anchors import COUNTERFACT, FIGURES, is_counterfact
from rome_engine.bench.comparison import Comparison
from rome_engine.bench.figures import base
from rome_engine.bench.leaderboard import Entry
from rome_engine.bench.retention import Retention
from rome_engine.bench.statistics import Estimate
from rome_engine.report.comparison_words import (
    LESS,
    bounds,
    effect_size,
    estimated,
    figure_name,
    headline,
    p_value,
    scaled,
    unit,
)
from rome_engine.report.page import Table
from rome_engine.report.reading import MISSING, number

DISAGREEING = 40
"""Records shown over all pairs and figures where runs disagree."""
LEAST = 3
"""Of them for each pair and figure."""

Cell = str | float | int | bool | None


def leaderboard(comparison: Comparison) -> Table:
    """A line a run: its headline figures with intervals, its records, its time."""
    shown = headline(comparison)
    several = comparison.figures
    rows: list[list[Cell]] = []
    for line in comparison.entries:
        scores = [line.of(figure.name) for figure in shown]
        values = [MISSING if one is None else estimated(one.after, one.figure) for one in scores]
        rows.append([line.label, line.method, *values, line.done, line.total, line.failed, _seconds(line)])
    named = [f"{figure_name(figure, several)} {unit(figure)}".strip() for figure in shown]
    note = (
        "n: records done, of all that the run has. s: seconds a record; values that an earlier run found were not "
        "searched again."
    )
    others = ", ".join(figure_name(figure, several) for figure in several if figure not in shown)
    if others:
        note += f" Further figures, which a saved page has and compare shows with --figure NAME: {others}."
    return Table("Leaderboard", ("Run", "Method", *named, "n", "of", "Failed", "s"), rows, note)


def published(comparison: Comparison) -> Table | None:
    """Published results, where the runs are of CounterFact: other models and protocols, no part of the ranking."""
    data = next(iter(comparison.about.values()))["configuration"]["data"]
    measured = {base(figure.name) for figure in comparison.figures} & {name.lower() for name in FIGURES}
    if not (measured and is_counterfact(data)):
        return None
    rows: list[list[Cell]] = [
        [anchor.label, *(anchor.figures[name] for name in FIGURES), anchor.source] for anchor in COUNTERFACT
    ]
    note = (
        "As printed, × 100. Other models, records and protocols than above: context, and no part of the ranking. GE "
        "and RS are on another scale than those measured here: they count the opening's tokens among a text's 100, and "
        "RS weighs words by another corpus."
    )
    return Table("Published results on CounterFact", ("Result", *FIGURES, "Source"), rows, note)


def every_figure(comparison: Comparison) -> Table:
    """A line a figure and run, before and after, with intervals and n."""
    rows: list[list[Cell]] = []
    for figure in comparison.figures:
        for line in comparison.entries:
            found = line.of(figure.name)
            if found is None:
                continue
            name = f"{figure_name(figure, comparison.figures)} {unit(figure)}".strip()
            sides = [(estimated(side, figure), side.n) for side in (found.before, found.after)]
            rows.append([name, line.label, *sides[0], *sides[1], found.after.reason or found.after.how])
    columns = ("Figure", "Run", "Before", "n", "After", "n", "Interval")
    return Table("Every figure, before and after", columns, rows)


def model_wide(comparison: Comparison) -> Table | None:
    """Figures of the whole model, before any edit and at each checkpoint."""
    rows: list[list[Cell]] = [
        [line.label, name, line.general_before.get(name), at, value]
        for line in comparison.entries
        for at, figures in line.general.items()
        for name, value in figures.items()
    ]
    return Table("The whole model", ("Run", "Figure", "Before", "Checkpoint", "After"), rows) if rows else None


def failures(comparison: Comparison) -> Table | None:
    """Why records failed."""
    rows: list[list[Cell]] = [
        [line.label, reason, count] for line in comparison.entries for reason, count in line.reasons.items()
    ]
    return Table("Records that failed", ("Run", "Why", "Records"), rows) if rows else None


def differences(comparison: Comparison) -> Table | None:
    """A line a pair of runs and figure: difference, interval, test, size, and what was left out."""
    if not comparison.pairs:
        return None
    rows: list[list[Cell]] = [
        [
            figure_name(pair.figure, comparison.figures),
            f"{pair.first}{LESS}{pair.second}",
            MISSING if pair.difference.value is None else scaled(pair.difference.value, pair.figure, signed=True),
            bounds(pair.difference, pair.figure, signed=True),
            pair.n,
            effect_size(pair),
            pair.test.name if pair.test else pair.difference.reason,
            p_value(pair.test.p if pair.test else None),
            p_value(pair.corrected),
            pair.difference.how or pair.difference.reason,
            "; ".join(f"{count} {reason}" for reason, count in pair.left.items()),
        ]
        for pair in comparison.pairs
    ]
    tests = sum(pair.test is not None for pair in comparison.pairs)
    note = (
        f"Only records that both runs have count. p (Holm) is corrected for all {tests} tests of this table. d_z: the "
        "mean difference by the differences' standard deviation; g: the first run's share of the discordant records "
        "(first only : second only) less one half."
    )
    columns = ("Figure", "Runs", "Difference", "95 %", "n", "Size", "Test", "p", "p (Holm)", "Interval", "Left out")
    return Table("Differences, paired by record", columns, rows, note)


def disagreements(comparison: Comparison) -> Table | None:
    """The records on which two runs differ most, by pair and headline figure."""
    names = {figure.name for figure in headline(comparison)}
    pairs = [pair for pair in comparison.pairs if pair.figure.name in names and pair.disagreements]
    if not pairs:
        return None
    count = max(LEAST, DISAGREEING // len(pairs))
    rows: list[list[Cell]] = [
        [
            figure_name(pair.figure, comparison.figures),
            f"{pair.first}{LESS}{pair.second}",
            one.id,
            *(scaled(value, pair.figure) for value in (one.first, one.second)),
            scaled(one.difference, pair.figure, signed=True),
        ]
        for pair in pairs
        for one in pair.farthest(count)
    ]
    differ = sum(len(pair.disagreements) for pair in pairs)
    more = f" {differ - len(rows)} others are in the JSON file." if differ > len(rows) else ""
    note = f"Of each pair of runs and figure, the records that differ most, by their difference.{more}"
    columns = ("Figure", "Runs", "Record", "First", "Second", "Difference")
    return Table("Where the runs disagree", columns, rows, note)


def retention_table(comparison: Comparison, kept: Retention) -> Table:
    """A line a batch, a column a checkpoint; the last line is the mean over all records edited until then."""
    name = figure_name(kept.figure, comparison.figures)
    rows: list[list[Cell]] = [
        [
            f"batch {batch}{_of(line)}",
            *(estimated(one, kept.figure) if one.n else "" for one in line),
        ]
        for batch, line in zip(kept.batches, kept.cells, strict=True)
    ]
    rows.append(["all until then", *(estimated(found, kept.figure) for found in kept.overall)])
    rows.append(["n", *(str(found.n) for found in kept.overall)])
    return Table(
        f"Retention of {name} in {kept.label}",
        ("", *(f"checkpoint {at}" for at in kept.checkpoints)),
        rows,
        f"{name} {unit(kept.figure)}. Down the diagonal: when a batch was made. To its right: after every later batch.",
    )


def _of(line: Sequence[Estimate]) -> str:
    """How many records a batch's figures are of, where some are: from the least to the most."""
    counts = sorted({one.n for one in line if one.n})
    return f" (n {'–'.join(str(one) for one in dict.fromkeys((counts[0], counts[-1])))})" if counts else ""


def _seconds(line: Entry) -> str:
    return number(sum(line.seconds.values())) if line.seconds else MISSING
