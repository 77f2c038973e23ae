"""The rows of new cells: the patched run's own states, with a cell's first patches made.

Within a block a patch behind the attention's mixing is felt by its own token only. So one call of a block with the same
patch at every token gives the first state of every cell that makes it, whatever its token: it is made once and kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial

from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import NotReplayableError
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replay import Replay
from rome_engine.trace.baseline import Baseline
from rome_engine.trace.budget import Budget
from rome_engine.trace.patching import inner_hooks, put
from rome_engine.trace.plan import Direction, Patch, base_run

Key = tuple[int, tuple[Patch, ...]]


class Births:
    """First states of cells of one baseline; what the waves share is kept within the budget."""

    def __init__(self, model: LanguageModel, baseline: Baseline, direction: Direction, budget: Budget) -> None:
        self.model, self.baseline, self.direction = model, baseline, direction
        self._base, self._budget = base_run(direction), budget
        self._made: dict[Key, Tensor] = {}

    def state(self, layer: int, patches: Sequence[Patch], start: int) -> Float[Tensor, "samples n d_model"]:
        """What the layer gives to the tokens from `start` on; layer -1 is what the first block is given."""
        baseline = self.baseline
        states = baseline.inputs(layer + 1, self._base)[:, start:]
        states = states.expand(baseline.samples, -1, -1).clone()
        inner: dict[int, list[Patch]] = defaultdict(list)
        for patch in patches:
            if patch.component != "hidden":
                inner[patch.position].append(replace(patch, position=0))
        for position, pattern in inner.items():
            states[:, position - start] = self._everywhere(layer, tuple(pattern))[:, position - baseline.subject[0]]
        for patch in patches:
            if patch.component == "hidden" and patch.position >= start:
                states[:, patch.position - start] = baseline.value(patch)
        return states

    def _everywhere(self, layer: int, pattern: tuple[Patch, ...]) -> Float[Tensor, "samples length d_model"]:
        """The layer's output where these patches are made at every token from the subject's first on."""
        key = (layer, pattern)
        if key not in self._made:
            # All are of one size; room is made before another is.
            size = next((tensor.nbytes for tensor in self._made.values()), 0)
            if (len(self._made) + 1) * size > self._budget.births:
                self._made.clear()
            self._made[key] = self._run(layer, pattern)
        return self._made[key]

    def _run(self, layer: int, pattern: tuple[Patch, ...]) -> Float[Tensor, "samples length d_model"]:
        baseline, begin = self.baseline, self.baseline.subject[0]
        given = baseline.inputs(layer, self._base)[:, begin:].expand(baseline.samples, -1, -1)

        with ExitStack() as stack:
            components = {patch.component for patch in pattern}
            edit = partial(self._edit, pattern, given)
            hooks = inner_hooks(stack, self.model, layer, components, baseline.samples, edit)
            made = self._replay.block(layer, given)
        if any(hook.calls != 1 for hook in hooks):
            raise NotReplayableError(f"a patch at layer {layer} did not run: the model's forward is not plain")
        return made

    def _edit(self, pattern: tuple[Patch, ...], given: Tensor, component: str, states: Tensor) -> None:
        for patch in pattern:
            if patch.component == component:
                for token in range(states.shape[1]):
                    at = replace(patch, position=self.baseline.subject[0] + token)
                    put(self.model, at, states, token, self.baseline.value(at).to(states), given[:, token])

    @cached_property
    def _replay(self) -> Replay:
        begin = self.baseline.subject[0]
        prefix = self.baseline.keys_values.rows(0, 1).before(begin)
        return Replay(self.model, self.baseline.ids[:1, begin:], prefix)
