"""Runs beside one another: each by itself, and every two of them paired by record."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from rome_engine.bench.figures import Figure, base, chosen, present
from rome_engine.bench.leaderboard import Entry, checkpoint_of, entry
from rome_engine.bench.pairs import Pair, corrected, pairs
from rome_engine.bench.retention import Retention, retention
from rome_engine.bench.run import Row, Run
from rome_engine.bench.statistics import CONFIDENCE, RESAMPLES
from rome_engine.errors import BenchError
from rome_engine.files import plain

_COMPUTING = (
    *(("device", "the device"), ("attention", "the attention's kernel"), ("threads", "the number of threads")),
    *(
        ("config", "the model's config"),
        ("tokenizer", "the tokenizer"),
        ("tf32", "how float32 products are rounded (TF32)"),
    ),
    *((name, f"the version of {name}") for name in ("rome_engine", "torch", "transformers", "python", "cuda")),
)
"""What computes a run's numbers, where it is recorded."""


@dataclass(frozen=True)
class Comparison:
    """Runs compared. entries: the best first. notes: how far they can be compared. about: how each run came about."""

    entries: tuple[Entry, ...]
    pairs: tuple[Pair, ...]
    retention: tuple[Retention, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...]
    about: Mapping[str, Mapping[str, Any]]
    seed: int

    def to_dict(self, listed: int | None = None) -> dict[str, Any]:
        """All of it as JSON. listed: of the records on which a pair differs only so many, the farthest, are named."""
        pairs = self.pairs
        if listed is not None:
            pairs = tuple(replace(pair, disagreements=tuple(pair.farthest(listed))) for pair in pairs)
        record: dict[str, Any] = plain(replace(self, pairs=pairs))
        for found, pair in zip(record["pairs"], self.pairs, strict=True):
            found["differ"] = len(pair.disagreements)
        return record | {"resamples": RESAMPLES, "confidence": CONFIDENCE}

    def rows(self) -> list[dict[str, Any]]:
        """Tidy: a row a run and figure, before and after."""
        told = ("value", "low", "high", "n", "how", "reason")
        return [
            {
                **{name: getattr(line, name) for name in ("label", "method", "checkpoint")},
                **{"figure": score.figure.name, "unit": score.figure.unit, "when": when},
                **{name: getattr(found, name) for name in told},
                **{name: getattr(line, name) for name in ("total", "done", "failed", "waiting")},
            }
            for line in self.entries
            for score in line.scores
            for when, found in (("before", score.before), ("after", score.after))
        ]


def compare(
    runs: Sequence[Run], *, figures: Sequence[str] | None = None, seed: int = 0, checkpoint: int | None = None
) -> Comparison:
    """Compare runs on one data set, each at its last checkpoint or at the one given; figures: by name, all for None.

    Raises BenchError for no run, one given twice, runs of different data sets, a figure that no run has, and a
    checkpoint that a run does not have.
    """
    _check(runs)
    named = dict(zip(_labels(runs), runs, strict=True))
    places = {label: checkpoint_of(run, checkpoint) for label, run in named.items()}
    there = present(runs)
    shown = there if figures is None else chosen(figures, there)
    entries = [entry(run, label, shown, places[label], seed) for label, run in named.items()]
    rows = {label: run.at(places[label]) for label, run in named.items()}
    paired = [
        one
        for first, second in combinations(named, 2)
        for one in pairs((first, second), rows[first], rows[second], shown, seed)
    ]
    return Comparison(
        entries=_ranked(entries),
        pairs=corrected(paired),
        retention=tuple(one for label, run in named.items() for one in retention(run, label, shown, seed)),
        figures=tuple(shown),
        notes=(*_records(rows), *_notes(named, entries, there)),
        about={
            label: {"path": str(run.path), "configuration": run.configuration, "environment": run.environment}
            for label, run in named.items()
        },
        seed=seed,
    )


def _moments_differ(several: Iterable[Mapping[str, str]]) -> bool:
    """Whether two runs have other second moments of one layer; methods edit different layers."""
    found = {(layer, content) for moments in several for layer, content in moments.items()}
    return len({layer for layer, _ in found}) < len(found)


def _check(runs: Sequence[Run]) -> None:
    if not runs:
        raise BenchError("there is no run to compare: give at least one")
    for path, count in Counter(run.path.resolve() for run in runs).items():
        if count > 1:
            raise BenchError(f"{path} is given {count} times: give every run once")
    sets = {run.configuration["data"]["sha256"]: run.path for run in runs}
    if len(sets) > 1:
        first, second, *_ = sets.values()
        raise BenchError(f"{first} and {second} are of different data sets: compare runs of the same records")


def _labels(runs: Sequence[Run]) -> list[str]:
    names = Counter(run.name for run in runs)
    return [run.name if names[run.name] == 1 else str(run.path) for run in runs]


def _ranked(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """The best first, by the first figure of which is known what is better; runs without it last."""
    ranking = next((one.figure for one in entries[0].scores if one.figure.higher is not None), None)
    if ranking is None:
        return tuple(entries)

    def key(line: Entry) -> tuple[bool, float]:
        found = line.of(ranking.name)
        value = None if found is None else found.after.value
        return value is None, 0.0 if value is None else -value if ranking.higher else value

    return tuple(sorted(entries, key=key))


def _records(rows: Mapping[str, Sequence[Row]]) -> list[str]:
    """Whether the lines of the leaderboard are of the same records."""
    ids = [{row.id for row in found} for found in rows.values()]
    if all(one == ids[0] for one in ids):
        return []
    common = len(set.intersection(*ids))
    sizes = ", ".join(f"{label} {len(one)}" for label, one in zip(rows, ids, strict=True))
    return [
        f"The runs are of different records ({sizes}): {common or 'none'} are common to all. The leaderboard is not "
        "paired, and its order may be one of the records; only differences are over common records."
    ]


def _order(configuration: Mapping[str, Any]) -> tuple[Any, ...]:
    drawn = configuration.get("order") == "random"
    return (drawn, configuration.get("seed") if drawn else None)


def _notes(named: Mapping[str, Run], entries: Sequence[Entry], figures: Sequence[Figure]) -> list[str]:
    """What a reader must know before taking a difference for one of the methods."""
    notes = [
        f"These runs differ in {what}: a difference is not one of the methods alone."
        for what, values in (
            ("the model", {run.environment.get("weights") for run in named.values()}),
            ("the number type", {run.environment.get("dtype") for run in named.values()}),
            ("the reference texts", {run.configuration["data"].get("references") for run in named.values()}),
            ("the records' order", {_order(run.configuration) for run in named.values()}),
            ("the seed", {run.configuration.get("seed") for run in named.values()}),
            ("the text of their perplexity", {run.configuration.get("text") for run in named.values()} - {None}),
            ("their tasks", {json.dumps(run.configuration.get("tasks")) for run in named.values()} - {"null"}),
            ("the protocol", {tuple(map(run.configuration.get, ("protocol", "batch"))) for run in named.values()}),
            *((what, {run.environment.get(name) for run in named.values()} - {None}) for name, what in _COMPUTING),
        )
        if len(values) > 1
    ]
    if _moments_differ(run.configuration.get("moments") or {} for run in named.values()):
        notes.append("These runs were made with different second moments of the same layers.")
    if len({line.checkpoint for line in entries}) > 1:
        notes.append("The runs are read at different checkpoints, each at its last: give --checkpoint for the same.")
    bases = Counter(base(figure.name) for figure in figures)
    for name in (name for name, count in bases.items() if count > 1):
        versions = ", ".join(one.name for one in figures if base(one.name) == name)
        notes.append(f"The runs have {name} by different definitions ({versions}), which are not compared.")
    for line in entries:
        if line.waiting:
            notes.append(f"{line.label} has {line.waiting} of {line.total} records not measured at its checkpoint.")
        if line.failed:
            notes.append(f"{line.label} has {line.failed} of {line.total} records that failed.")
    return notes
