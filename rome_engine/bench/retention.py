"""What later edits leave of earlier ones: each batch's figure when it was made and at every later checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rome_engine.bench.figures import Figure, array
from rome_engine.bench.run import BEFORE, Row, Run
from rome_engine.bench.statistics import Array, Estimate, estimate


@dataclass(frozen=True, eq=False)
class Retention:
    """A figure of a sequential run.

    cells: a line a batch, an estimate a checkpoint; of no record before the batch was made and where it was not scored.
    overall: at each checkpoint, over all records edited until then; of nothing where only the newest batch was scored.
    """

    label: str
    figure: Figure
    batches: tuple[int, ...]
    checkpoints: tuple[int, ...]
    cells: tuple[tuple[Estimate, ...], ...]
    overall: tuple[Estimate, ...]

    @property
    def values(self) -> Array:
        """(batches, checkpoints): the cells' values, NaN where there is none."""
        return np.array([[np.nan if one.value is None else one.value for one in line] for line in self.cells])


def retention(run: Run, label: str, figures: Sequence[Figure], seed: int = 0) -> list[Retention]:
    """A matrix a figure that the run has; none where no record was scored at more than one checkpoint."""
    rows = [row for row in run.rows if row.checkpoint != BEFORE and row.batch <= row.checkpoint]
    if len({(row.id, row.checkpoint) for row in rows}) == len({row.id for row in rows}):
        return []
    batches = tuple(sorted({row.batch for row in rows}))
    checkpoints = tuple(sorted({row.checkpoint for row in rows}))
    found = []
    for figure in figures:

        def over(some: Iterable[Row], figure: Figure = figure) -> Estimate:
            values = array(figure.values(some).values(), len(figure.parts))
            return estimate(values, figure.combine, share=figure.share, seed=seed)

        cells, overall = [], []
        for checkpoint in checkpoints:
            there = [row for row in rows if row.checkpoint == checkpoint]
            everything = {row.batch for row in there}.issuperset(at for at in batches if at <= checkpoint)
            overall.append(over(there if everything else []))
            cells.append([over(row for row in there if row.batch == batch) for batch in batches])
        if any(one.n for column in cells for one in column):
            by_batch = tuple(zip(*cells, strict=True))
            found.append(Retention(label, figure, batches, checkpoints, by_batch, tuple(overall)))
    return found
