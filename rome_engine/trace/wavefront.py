"""The fast engine: exact shortcuts only (Meng et al. 2022 for what is computed).

A cell differs from the run that it patches only above its first exchanged state and at or after its first exchanged
token. So the layers are walked once, by groups of cells with the same first token; each new cell's rows join its group
at its first layer; cells whose patches so far are the same share their rows; what lies before the first token enters
as keys and values of the run.

A cell that exchanges the whole state of the first corrupted tokens makes these tokens the other run's for good (they
see nothing that is not). Its group then starts behind them, with the other run's keys and values before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rome_engine.model.language_model import LanguageModel
from rome_engine.model.memory import Memory
from rome_engine.model.offload import in_memory
from rome_engine.trace.baseline import Baseline
from rome_engine.trace.birth import Births
from rome_engine.trace.budget import Budget
from rome_engine.trace.metrics import METRICS, measure
from rome_engine.trace.plan import Cell, Direction, Patch, Progress, base_run, source_run
from rome_engine.trace.wave import Wave


@torch.no_grad()
def run(
    model: LanguageModel,
    cells: Sequence[Cell],
    baseline: Baseline,
    direction: Direction = "restore",
    progress: Progress | None = None,
    memory: int | None = None,
) -> NDArray[np.float64]:
    """The metrics of each cell and sample, (cells, samples, metrics).

    memory: bytes that states and temporaries may take beyond the baseline; None for a default.
    Raises NotReplayableError where a self-test fails: replayed rows that differ from the run they repeat, or a patch
    that did not fire. Raises TraceError where the memory does not hold a single cell.
    """
    effective = [_effective(cell.patches, baseline, direction) for cell in cells]
    found, groups = _sorted_out(effective, baseline, direction)
    budget = Budget(model, baseline, memory)
    births = Births(model, baseline, direction, budget)
    size = {start: budget.states(start) for start, _ in groups}
    batches = list(_batches(groups, size, budget.of_states))
    steps = _Steps(progress, len(cells), sum(map(len, groups.values())), len(batches) * (model.n_layers + 1))
    work = Memory()
    for batch in batches:
        waves = [
            Wave(
                model, baseline, births, budget.branches(start), [effective[one] for one in part], start, swapped, work
            )
            for start, swapped, part in batch
        ]
        for layer in range(-1, model.n_layers):
            with in_memory(model.blocks[layer]) if layer >= 0 else nullcontext():
                for wave in waves:
                    wave.step(layer)
            steps.tell()
        work.clear()  # the logits' turn
        metrics = iter(_measured(model, baseline, budget, torch.cat([top for wave in waves for top in wave.tops()])))
        for wave, (_, _, part) in zip(waves, batch, strict=True):
            for own in wave.owners():
                found[[part[cell] for cell in own]] = next(metrics)
    return found


def _sorted_out(
    effective: Sequence[tuple[Patch, ...]], baseline: Baseline, direction: Direction
) -> tuple[NDArray[np.float64], dict[tuple[int, bool], list[int]]]:
    """What is known without running anything, and the cells that must be run, by first token (see `_reach`)."""
    found = np.empty((len(effective), baseline.samples, len(METRICS)))
    found[:] = baseline.scores[baseline.rows(base_run(direction))].numpy()
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    last = Patch(baseline.model.n_layers - 1, "hidden", baseline.tokens - 1, source_run(direction))
    for index, patches in enumerate(effective):
        if not patches:
            continue  # nothing that reaches a scored token is changed
        if baseline.first_scored == baseline.tokens - 1 and last in patches:
            found[index] = baseline.scores[baseline.rows(source_run(direction))].numpy()
        else:
            groups[_reach(patches, baseline, direction)].append(index)
    return found, groups


class _Steps:
    """Tells progress in cells: all cells that are run go up the layers together."""

    def __init__(self, progress: Progress | None, cells: int, run: int, steps: int) -> None:
        self._progress, self._cells, self._run, self._steps = progress, cells, run, steps
        self._done = 0
        if progress is not None and not steps:
            progress(cells, cells)

    def tell(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._cells - self._run + self._run * self._done // self._steps, self._cells)


def _measured(
    model: LanguageModel, baseline: Baseline, budget: Budget, tops: Float[Tensor, "branches samples answer d_model"]
) -> NDArray[np.float64]:
    """The metrics of each branch and sample; logits lie in memory that is used again."""
    branches, samples, answer, width = tops.shape
    size = budget.unembedded(answer)
    room = tops.new_empty(min(size, branches * samples) * answer, model.architecture.d_vocab)
    rows = tops.reshape(-1, answer, width)
    parts = torch.split(rows, size)
    with in_memory(model.unembedding):
        metrics = torch.cat([measure(model.unembed(part, room), baseline.question) for part in parts])
    return np.asarray(metrics.view(branches, samples, -1).numpy())


Group = tuple[int, bool, list[int]]


def _batches(groups: dict[tuple[int, bool], list[int]], size: dict[int, int], room: int) -> Iterator[list[Group]]:
    """Groups that walk the layers together, so that each layer's weights are fetched once: as many as there is room
    for, a large one in parts."""
    batch: list[Group] = []
    left = room
    for (start, swapped), group in sorted(groups.items(), reverse=True):
        while group:
            fitting = left // size[start]
            if fitting == 0 and batch:
                yield batch
                batch, left = [], room
                continue
            part, group = group[: max(1, fitting)], group[max(1, fitting) :]
            batch.append((start, swapped, part))
            left -= len(part) * size[start]
    if batch:
        yield batch


def _effective(patches: Sequence[Patch], baseline: Baseline, direction: Direction) -> tuple[Patch, ...]:
    """The patches that can reach a scored token's top state.

    Not those before the subject, nor at the top beside the scored tokens, nor those that hold a state at its value in
    the run that is patched as long as nothing has changed it.
    """
    begin, last = baseline.subject[0], baseline.model.n_layers - 1
    reaching = [
        patch
        for patch in patches
        if patch.position >= begin and (patch.layer < last or patch.position >= baseline.first_scored)
    ]
    exchanged = [patch for patch in reaching if patch.source == source_run(direction)]
    if not exchanged:
        return ()
    layer, token = min(patch.layer for patch in exchanged), min(patch.position for patch in exchanged)
    return tuple(
        patch
        for patch in reaching
        if patch.source == source_run(direction) or (patch.layer >= layer and patch.position >= token)
    )


def _reach(patches: Sequence[Patch], baseline: Baseline, direction: Direction) -> tuple[int, bool]:
    """The first token whose states must be run, and whether all before it are the other run's once patches are made."""
    exchanged = [patch for patch in patches if patch.source == source_run(direction)]
    start = baseline.subject[0]
    if len({patch.layer for patch in exchanged}) == 1 and all(patch.component == "hidden" for patch in exchanged):
        whole = {patch.position for patch in exchanged}
        held = {patch.position for patch in patches if patch.source == base_run(direction)}
        while start in whole and start not in held and start < baseline.first_scored:
            start += 1
        if start > baseline.subject[0]:
            return start, True
    return min(patch.position for patch in exchanged), False
