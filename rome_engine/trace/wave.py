"""One wave of the fast engine: cells with the same first token, carried up through the layers together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import NotReplayableError
from rome_engine.model import plain_block
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.memory import Memory
from rome_engine.model.plain_attention import Around
from rome_engine.model.plain_block import Changes
from rome_engine.model.replay import Replay
from rome_engine.trace.baseline import Baseline
from rome_engine.trace.birth import Births
from rome_engine.trace.patching import inner_hooks, put
from rome_engine.trace.placed import Placed
from rome_engine.trace.plan import Patch, base_run, source_run

Patches = tuple[Patch, ...]

REPLAY_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@dataclass(eq=False)
class _Branch:
    """Rows that cells share as long as their patches have been the same."""

    cells: list[int]
    now: Patches = ()


@dataclass(eq=False)
class _Chunk:
    """Branches that go through a block together: states (branches, samples, tokens, d_model)."""

    states: Tensor
    branches: list[_Branch] = field(default_factory=list)


class Wave:
    """States of the tokens from `start` on of all rows of a group's cells.

    swapped: the tokens from the subject's first to `start` are the other run's. memory: shared by the waves.
    Raises NotReplayableError where the replayed blocks do not give what the run itself gave.
    """

    def __init__(
        self,
        model: LanguageModel,
        baseline: Baseline,
        births: Births,
        per_chunk: int,
        cells: Sequence[Patches],
        start: int,
        swapped: bool,
        memory: Memory,
    ) -> None:
        self.memory = memory
        self.model, self.baseline, self.births, self.per_chunk = model, baseline, births, per_chunk
        self._at = [_by_layer(patches) for patches in cells]
        self._first = [min(layers) for layers in self._at]
        self.start, self.n, self.samples = start, baseline.tokens - start, baseline.samples
        self.base = base_run(births.direction)
        # Before the subject all rows are alike: one row says it all.
        before = source_run(births.direction) if swapped else self.base
        rows = slice(0, 1) if start == baseline.subject[0] else baseline.rows(before)
        prefix = baseline.keys_values.rows(rows.start, rows.stop).before(start)
        common = memory if model.attends_to_common_prefix else None
        self.replay = Replay(model, baseline.ids[:1, start:], prefix, common=common)
        self.chunks: list[_Chunk] = []
        if not swapped:
            self._check_replay()

    def step(self, layer: int) -> None:
        """Go up one layer: -1 is what the first block is given."""
        if layer >= 0 and self.chunks:
            self._fork(layer)
            for chunk in self.chunks:
                self._advance(chunk, layer)
        born = [cell for cell, begin in enumerate(self._first) if begin == layer]
        groups = _alike(born, self._at, layer)
        for number, (patches, group) in enumerate(groups):
            states = self.births.state(layer, patches, self.start)[:, self._dropped(layer) :]
            self._add(_Branch(group, patches), states, len(groups) - number)

    def tops(self) -> list[Float[Tensor, "branches samples answer d_model"]]:
        """The last block's output at the scored positions, once all layers are done: some branches in each."""
        return [chunk.states[: len(chunk.branches)] for chunk in self.chunks]

    def owners(self) -> list[list[int]]:
        """For each row of `tops`, the cells that it is the result of."""
        return [branch.cells for chunk in self.chunks for branch in chunk.branches]

    def _dropped(self, layer: int) -> int:
        """How many of the first tokens are not needed of a layer's output: all before the scored ones of the last."""
        return self.baseline.first_scored - self.start if layer == self.model.n_layers - 1 else 0

    def _add(self, branch: _Branch, states: Float[Tensor, "samples n d_model"], coming: int) -> None:
        """Put a branch into the last chunk, the first of so many that are coming: room is made for them at once."""
        if not self.chunks or len(self.chunks[-1].branches) >= self.per_chunk:
            self.chunks.append(_Chunk(states.new_empty(min(self.per_chunk, coming), *states.shape)))
        chunk = self.chunks[-1]
        used = len(chunk.branches)
        if chunk.states.shape[0] == used:  # what a block gave has no room
            room = states.new_empty(min(self.per_chunk, used + coming), *states.shape)
            room[:used] = chunk.states
            chunk.states = room
        chunk.states[used] = states
        chunk.branches.append(branch)

    def _fork(self, layer: int) -> None:
        """Branches whose cells are patched differently at this layer split; the rows are copied."""
        new: list[tuple[_Branch, _Chunk, int]] = []
        for chunk in self.chunks:
            for slot, branch in enumerate(chunk.branches):
                parts = _alike(branch.cells, self._at, layer)
                branch.now, branch.cells = parts[0]
                new += [(_Branch(cells, patches), chunk, slot) for patches, cells in parts[1:]]
        for number, (branch, chunk, slot) in enumerate(new):
            self._add(branch, chunk.states[slot], len(new) - number)

    def _advance(self, chunk: _Chunk, layer: int) -> None:
        """Run the block on a chunk, with its branches' patches of this layer."""
        states = chunk.states[: len(chunk.branches)]
        placed = Placed(self.baseline, [branch.now for branch in chunk.branches])
        around = self._around(layer)
        if around is None:
            chunk.states = self._hooked(chunk, layer)
        else:
            last = self.n - self._dropped(layer)
            block = self.model.blocks[layer]
            made = plain_block.run(block, states.flatten(0, 1), around, placed.changes(last), last, self.memory)
            if last < self.n:  # else it lies where the input lay
                chunk.states = made.view(len(chunk.branches), self.samples, last, -1)
        placed.hidden(chunk.states)

    def _around(self, layer: int) -> Around | None:
        return self.replay.around(layer) if self.model.blocks_are_plain else None

    def _hooked(self, chunk: _Chunk, layer: int) -> Tensor:
        """What the model's own block gives, with the patches made by hooks."""
        states = chunk.states[: len(chunk.branches)]
        components = {patch.component for branch in chunk.branches for patch in branch.now} - {"hidden"}
        with ExitStack() as stack:
            edit = partial(self._edit, chunk, states)
            hooks = inner_hooks(stack, self.model, layer, components, states.shape[0] * self.samples, edit)
            if self._dropped(layer) == self.n - 1 > 0 and self.model.last_mlp_may_see_one_token:
                stack.enter_context(self.model.only_last_token_in_mlp(layer))
            made = self.replay.block(layer, states.flatten(0, 1)).view_as(states)
        if any(hook.calls != 1 for hook in hooks):
            raise NotReplayableError(f"a patch at layer {layer} did not run: the model's forward is not plain")
        dropped = self._dropped(layer)
        return made[:, :, dropped:].clone() if dropped else made

    def _edit(self, chunk: _Chunk, given: Tensor, component: str, inner: Tensor) -> None:
        """Make the chunk's patches of one component; given: what the block was given."""
        experiments = inner.view(len(chunk.branches), self.samples, -1, inner.shape[-1])
        for slot, branch in enumerate(chunk.branches):
            for patch in branch.now:
                if patch.component == component:
                    # Counted from the end: the last MLP may run on the last token alone.
                    token = patch.position - self.baseline.tokens
                    value = self.baseline.value(patch).to(inner)
                    put(self.model, patch, experiments[slot], token, value, given[slot, :, token])

    def _check_replay(self) -> None:
        """The patched run's own rows, replayed, must give what they gave: at the first layer and at the last."""
        rows = self.baseline.rows(self.base)
        for layer in {0, self.model.n_layers - 1}:
            given = self.baseline.inputs(layer, self.base)[:, self.start :]
            expected = self.baseline.states["hidden"][layer][rows, self.start :]
            around, block = self._around(layer), self.model.blocks[layer]
            if around is None:
                made = self.replay.block(layer, given)
            else:
                made = plain_block.run(block, given.clone(), around, Changes(), self.n, self.memory)
            error = float((made - expected).abs().max() / expected.abs().max())
            if not error <= REPLAY_TOLERANCE.get(expected.dtype, 5e-2):
                raise NotReplayableError(
                    f"replaying layer {layer} from token {self.start} differs from the full run by {error:.1e}"
                )


def _by_layer(patches: Patches) -> dict[int, Patches]:
    layers: dict[int, list[Patch]] = defaultdict(list)
    for patch in sorted(patches):
        layers[patch.layer].append(patch)
    return {layer: tuple(group) for layer, group in layers.items()}


def _alike(cells: list[int], at: list[dict[int, Patches]], layer: int) -> list[tuple[Patches, list[int]]]:
    """The cells in groups of equal patches at this layer."""
    groups: dict[Patches, list[int]] = defaultdict(list)
    for cell in cells:
        groups[at[cell].get(layer, ())].append(cell)
    return list(groups.items())
