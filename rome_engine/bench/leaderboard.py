"""What one run says by itself: its figures with their intervals, before and after, its time and its failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rome_engine.bench.figures import Figure, array
from rome_engine.bench.run import BEFORE, Row, Run
from rome_engine.bench.statistics import Estimate, estimate
from rome_engine.errors import BenchError


@dataclass(frozen=True)
class Scores:
    """A figure of a run: on the untouched model and after the edits, over the same records."""

    figure: Figure
    before: Estimate
    after: Estimate


@dataclass(frozen=True)
class Entry:
    """A run's line. label: its name, or its path where two have one name.

    checkpoint: at which it was read. total, done, failed, waiting: records; waiting are those without a row there.
    reasons: why records failed, with their numbers. seconds: by phase, the mean over the records that tell it.
    general: figures of the whole model before, after, and at each checkpoint until then.
    """

    label: str
    method: str
    checkpoint: int
    total: int
    done: int
    failed: int
    waiting: int
    reasons: Mapping[str, int]
    seconds: Mapping[str, float]
    scores: tuple[Scores, ...]
    general_before: Mapping[str, float]
    general_after: Mapping[str, float]
    general: Mapping[int, Mapping[str, float]]

    def of(self, name: str) -> Scores | None:
        """A figure; None where the run has none of it."""
        return next((one for one in self.scores if one.figure.name == name and one.after.n), None)


def checkpoint_of(run: Run, checkpoint: int | None) -> int:
    """The checkpoint at which a run is read, its last one for None. Raises BenchError for one it does not have."""
    there = sorted({row.checkpoint for row in run.rows} - {BEFORE})
    if not there:
        raise BenchError(f"{run.path} has no edited record yet: finish the run with the command that began it")
    if checkpoint is not None and checkpoint not in there:
        raise BenchError(f"{run.path} has no checkpoint {checkpoint}: it has {there[0]} to {there[-1]}")
    return there[-1] if checkpoint is None else checkpoint


def entry(run: Run, label: str, figures: Sequence[Figure], checkpoint: int, seed: int = 0) -> Entry:
    """A run's line at a checkpoint that it has."""
    rows = run.at(checkpoint)
    done = [row for row in rows if row.status == "done"]
    ids = {row.id for row in done}
    before = [row for row in run.at(BEFORE) if row.id in ids]
    failed = [row for row in rows if row.status == "failed"]
    return Entry(
        label=label,
        method=run.method,
        checkpoint=checkpoint,
        total=run.total,
        done=len(done),
        failed=len(failed),
        waiting=max(0, run.total - len(rows)),
        reasons=Counter(row.reason or "no reason was kept" for row in failed),
        seconds=_seconds(done),
        scores=tuple(Scores(one, _estimate(one, before, seed), _estimate(one, done, seed)) for one in figures),
        general_before=run.general.get(BEFORE, {}),
        general_after=run.general.get(checkpoint, {}),
        general={at: figures for at, figures in sorted(run.general.items()) if BEFORE < at <= checkpoint},
    )


def _estimate(figure: Figure, rows: Sequence[Row], seed: int) -> Estimate:
    values = array(figure.values(rows).values(), len(figure.parts))
    return estimate(values, figure.combine, share=figure.share, seed=seed)


def _seconds(rows: Sequence[Row]) -> dict[str, float]:
    phases = dict.fromkeys(phase for row in rows for phase in row.seconds)
    return {phase: float(np.mean([row.seconds[phase] for row in rows if phase in row.seconds])) for phase in phases}
