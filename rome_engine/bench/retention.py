"""What later edits leave of earlier ones: each batch's figure when it was made and at every later checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rome_engine.bench.figures import Figure, array
from rome_engine.bench.run import BEFORE, Run
from rome_engine.bench.statistics import Array, Estimate, estimate


@dataclass(frozen=True, eq=False)
class Retention:
    """A figure of a sequential run.

    means: (batches, checkpoints), NaN before a batch was made and where no record has the figure. counts: how many
    records each is the mean of. overall: at each checkpoint, over all records edited until then; of nothing where only
    the newest batch was scored.
    """

    label: str
    figure: Figure
    batches: tuple[int, ...]
    checkpoints: tuple[int, ...]
    means: Array
    counts: Array
    overall: tuple[Estimate, ...]


def retention(run: Run, label: str, figures: Sequence[Figure], seed: int = 0) -> list[Retention]:
    """A matrix a figure that the run has; none where no record was scored at more than one checkpoint."""
    rows = [row for row in run.rows if row.checkpoint != BEFORE and row.batch <= row.checkpoint]
    if len({(row.id, row.checkpoint) for row in rows}) == len({row.id for row in rows}):
        return []
    batches = tuple(sorted({row.batch for row in rows}))
    checkpoints = tuple(sorted({row.checkpoint for row in rows}))
    found = []
    for figure in figures:
        means = np.full((len(batches), len(checkpoints)), np.nan)
        counts = np.zeros_like(means)
        overall = []
        for column, checkpoint in enumerate(checkpoints):
            there = [row for row in rows if row.checkpoint == checkpoint]
            everything = {row.batch for row in there}.issuperset(at for at in batches if at <= checkpoint)
            values = array(figure.values(there if everything else []).values(), len(figure.parts))
            overall.append(estimate(values, figure.combine, share=figure.share, seed=seed))
            for line, batch in enumerate(batches):
                cell = array(figure.values(row for row in there if row.batch == batch).values(), len(figure.parts))
                counts[line, column] = len(cell)
                if len(cell):
                    means[line, column] = figure.combine(cell.mean(0))
        if counts.any():
            found.append(Retention(label, figure, batches, checkpoints, means, counts, tuple(overall)))
    return found
