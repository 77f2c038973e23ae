"""The fast engine: exact shortcuts only (Meng et al. 2022 for what is computed).

A cell differs from the corrupted run only above its first patch and at or after its first patched token. So the
layers are walked once per group of cells with the same first token; each new cell's rows join the batch at its first
layer; cells whose patches so far are the same share their rows; what lies before the first token enters as the
corrupted run's keys and values.

A cell that restores the whole state of the first corrupted token makes that token clean for good (it sees nothing but
clean tokens). Its group then starts one token later, with the clean run's keys and values before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rome_engine.errors import NotReplayableError
from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.hooks import first_tensor, with_first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replay import Replay
from rome_engine.trace.baseline import Baseline
from rome_engine.trace.plan import Cell, Patch, Progress

# Rows × tokens per block call, and rows per unembedding: products this large run at full speed, memory stays small.
CHUNK_TOKENS = 1024
UNEMBED_ROWS = 128

REPLAY_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@torch.no_grad()
def run(
    model: LanguageModel,
    cells: Sequence[Cell],
    baseline: Baseline,
    progress: Progress | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> NDArray[np.float64]:
    """The score of each cell: the answer's probability, averaged over the corrupted rows, shape (cells,).

    Raises NotReplayableError where a self-test fails: replayed rows that differ from the run they repeat, or a patch
    that did not fire.
    """
    scores = np.full(len(cells), baseline.low)
    groups: dict[tuple[int, bool], list[tuple[int, Cell]]] = defaultdict(list)
    for index, cell in enumerate(cells):
        patches = _effective(cell, baseline, model.n_layers)
        if not patches:
            continue  # nothing that reaches the last token is changed: the score is `low`
        start, clean = _reach(patches, baseline)
        if start == baseline.tokens or Patch(model.n_layers - 1, "hidden", baseline.tokens - 1) in patches:
            scores[index] = baseline.high  # the last token is clean at the top
        else:
            groups[start, clean].append((index, Cell(cell.token, cell.layer, patches)))
    done = len(cells) - sum(map(len, groups.values()))
    for (start, clean), group in sorted(groups.items(), reverse=True):
        wave = _Wave(model, baseline, start, clean, chunk_tokens)
        for (index, _), score in zip(group, wave.scores([cell for _, cell in group]), strict=True):
            scores[index] = score
        done += len(group)
        if progress is not None:
            progress(done, len(cells))
    return scores


def _effective(cell: Cell, baseline: Baseline, layers: int) -> tuple[Patch, ...]:
    """The patches that can reach the last token's top state: not those before the subject, nor beside it at the top."""
    begin, last = baseline.subject[0], baseline.tokens - 1
    return tuple(
        patch
        for patch in cell.patches
        if patch.position >= begin and (patch.layer < layers - 1 or patch.position == last)
    )


def _reach(patches: tuple[Patch, ...], baseline: Baseline) -> tuple[int, bool]:
    """The first token whose states must be run, and whether all before it are clean once the patches are made."""
    start = baseline.subject[0]
    if len({patch.layer for patch in patches}) == 1 and all(patch.component == "hidden" for patch in patches):
        restored = {patch.position for patch in patches}
        while start in restored:
            start += 1
        if start > baseline.subject[0]:
            return start, True
    return min(patch.position for patch in patches), False


@dataclass(eq=False)
class _Branch:
    """Rows that cells share as long as their patches have been the same."""

    cells: list[int]
    now: tuple[Patch, ...] = ()


class _Wave:
    """One group of cells: states of the tokens [start, T) of all their rows, carried up through the layers."""

    def __init__(self, model: LanguageModel, baseline: Baseline, start: int, clean: bool, chunk_tokens: int) -> None:
        self.model, self.baseline = model, baseline
        self.start, self.n, self.samples = start, baseline.tokens - start, baseline.samples
        self.last = model.n_layers - 1
        self.per_chunk = max(1, chunk_tokens // (self.samples * self.n))
        # Before the subject all rows are alike, and after a restored first token all are clean: one row says it all.
        alike = clean or start == baseline.subject[0]
        self.prefix = (baseline.keys_values.rows(0, 1) if alike else baseline.keys_values.rows(1, None)).before(start)
        self.ids = model.ids(baseline.prompt)
        self.replay = Replay(model, self.ids[:, start:], self.prefix)
        self.branches: list[_Branch] = []
        self.shown: list[_Branch] = []
        if not clean:
            self._check_replay()

    def scores(self, cells: list[Cell]) -> NDArray[np.float64]:
        """The score of each cell."""
        at = [_by_layer(cell) for cell in cells]
        first = [min(patches) for patches in at]
        hidden = self.baseline.states["hidden"][0]
        self.states = hidden.new_empty(len(cells), self.samples, self.n, hidden.shape[-1])
        for layer in range(self.model.n_layers):
            self._fork(at, layer)
            if self.branches:
                self._advance(layer)
            born = [index for index, start in enumerate(first) if start == layer]
            for patches, group in _alike(born, at, layer):
                self._give_birth(_Branch(group, patches), layer)
        result = np.empty(len(cells))
        for branch, score in zip(self.branches, self._answers(), strict=True):
            result[branch.cells] = score
        return result

    def _fork(self, at: list[dict[int, tuple[Patch, ...]]], layer: int) -> None:
        """Branches whose cells are patched differently at this layer split; the rows are copied."""
        for slot, branch in enumerate(list(self.branches)):
            parts = _alike(branch.cells, at, layer)
            branch.now, branch.cells = parts[0]
            for patches, cells in parts[1:]:
                self.states[len(self.branches)] = self.states[slot]
                self.branches.append(_Branch(cells, patches))

    def _advance(self, layer: int) -> None:
        """Run the block on all branches, a chunk of them at a time, with their patches of this layer."""
        patches = [patch for branch in self.branches for patch in branch.now]
        slots = range(0, len(self.branches), self.per_chunk)
        with ExitStack() as stack:
            hooks = self._patched(stack, layer, patches)
            if layer == self.last and self.n > 1 and self.model.last_mlp_may_see_one_token:
                stack.enter_context(self.model.only_last_token_in_mlp(layer))
            for slot in slots:
                self.shown = self.branches[slot : slot + self.per_chunk]
                chunk = self.states[slot : slot + len(self.shown)]
                chunk.copy_(self.replay.block(layer, chunk.flatten(0, 1)).view_as(chunk))
        if any(hook.calls != len(slots) for hook in hooks):
            raise NotReplayableError(f"a patch at layer {layer} did not run: the model's forward is not plain")
        for slot, branch in enumerate(self.branches):
            self._restore_outputs(slot, branch)

    def _restore_outputs(self, slot: int, branch: _Branch) -> None:
        for patch in branch.now:
            if patch.component == "hidden" and patch.position >= self.start:
                self.states[slot, :, patch.position - self.start] = self._clean(patch)

    def _give_birth(self, branch: _Branch, layer: int) -> None:
        """New rows: the corrupted run's output of this layer, with the branch's first patches made."""
        slot = len(self.branches)
        self.states[slot] = self.baseline.states["hidden"][layer][1:, self.start :]
        inner = [patch for patch in branch.now if patch.component != "hidden"]
        if inner:
            # Within the block a patch is felt by its own token only, so no token after the last patched one need run.
            end = max(patch.position for patch in inner) + 1
            replay = self._replay_until(end)
            given = self.baseline.inputs(layer)[1:, self.start : end]
            self.shown = [branch]
            with ExitStack() as stack:
                hooks = self._patched(stack, layer, inner, end)
                self.states[slot, :, : end - self.start] = replay.block(layer, given)
            if any(hook.calls != 1 for hook in hooks):
                raise NotReplayableError(f"a patch at layer {layer} did not run: the model's forward is not plain")
        self._restore_outputs(slot, branch)
        self.branches.append(branch)

    def _replay_until(self, end: int) -> Replay:
        if end == self.baseline.tokens:
            return self.replay
        if self._short is None or self._short[0] != end:
            self._short = (end, Replay(self.model, self.ids[:, self.start : end], self.prefix))
        return self._short[1]

    _short: tuple[int, Replay] | None = None

    def _patched(self, stack: ExitStack, layer: int, patches: Sequence[Patch], end: int | None = None) -> list[Hook]:
        """Hooks that make the patches of the branches in `self.shown`, for each component that has any."""
        end = self.baseline.tokens if end is None else end

        def restore(component: str) -> Callable[[Any, str | None], Any]:
            def edit(output: Any, _layer: str | None) -> Any:
                tensor = first_tensor(output)
                rows = tensor.view(
                    len(self.shown), self.samples, -1, tensor.shape[-1]
                )  # (branches, samples, tokens, d_model)
                for slot, branch in enumerate(self.shown):
                    for patch in branch.now:
                        if patch.component == component:
                            rows[slot, :, patch.position - end] = self._clean(patch)
                return with_first_tensor(output, tensor)

            return edit

        components = sorted({patch.component for patch in patches} - {"hidden"})
        return [
            stack.enter_context(Hook(self.model.output(name, layer), edit_output=restore(name), retain_output=False))
            for name in components
        ]

    def _clean(self, patch: Patch) -> Float[Tensor, " d_model"]:
        return self.baseline.clean(patch.component, patch.layer, patch.position)

    def _answers(self) -> NDArray[np.float64]:
        """The answer's probability at the last position, averaged over each branch's rows."""
        tops = self.states[: len(self.branches), :, -1].flatten(0, 1)
        parts = []
        for chunk in torch.split(tops, UNEMBED_ROWS):
            parts.append(self.model.unembed(chunk).float().softmax(-1)[:, self.baseline.answer_id].double())
        mean = torch.cat(parts).view(-1, self.samples).mean(-1)
        return np.asarray(mean.cpu().numpy())

    def _check_replay(self) -> None:
        """The corrupted run's own rows, replayed, must give what they gave: at the first layer and at the last."""
        for layer in {0, self.last}:
            given = self.baseline.inputs(layer)[1:, self.start :]
            expected = self.baseline.states["hidden"][layer][1:, self.start :]
            error = float((self.replay.block(layer, given) - expected).abs().max() / expected.abs().max())
            if not error <= REPLAY_TOLERANCE.get(expected.dtype, 5e-2):
                raise NotReplayableError(
                    f"replaying layer {layer} from token {self.start} differs from the full run by {error:.1e}"
                )


def _by_layer(cell: Cell) -> dict[int, tuple[Patch, ...]]:
    layers: dict[int, list[Patch]] = defaultdict(list)
    for patch in sorted(cell.patches):
        layers[patch.layer].append(patch)
    return {layer: tuple(patches) for layer, patches in layers.items()}


def _alike(
    cells: list[int], at: list[dict[int, tuple[Patch, ...]]], layer: int
) -> list[tuple[tuple[Patch, ...], list[int]]]:
    """The cells in groups of equal patches at this layer."""
    groups: dict[tuple[Patch, ...], list[int]] = defaultdict(list)
    for cell in cells:
        groups[at[cell].get(layer, ())].append(cell)
    return list(groups.items())
