"""The reference engine: one forward pass of the whole batch a cell. What the fast engine must agree with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rome_engine.errors import TraceError
from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.hooks import first_tensor, with_first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace.baseline import Baseline, corruption
from rome_engine.trace.metrics import METRICS, measure
from rome_engine.trace.patching import inner_hooks, put
from rome_engine.trace.plan import Cell, Direction, Patch, Progress


@torch.no_grad()
def run(
    model: LanguageModel,
    cells: Sequence[Cell],
    baseline: Baseline,
    direction: Direction = "restore",
    progress: Progress | None = None,
    memory: int | None = None,
) -> NDArray[np.float64]:
    """The metrics of each cell and sample, (cells, samples, metrics). It takes what memory one forward pass takes.

    Raises TraceError where a planned patch did not fire exactly once.
    """
    found = np.empty((len(cells), baseline.samples, len(METRICS)))
    for index, cell in enumerate(cells):
        found[index] = _Pass(model, cell, baseline, direction).metrics()
        if progress is not None:
            progress(index + 1, len(cells))
    return found


class _Pass:
    """One forward pass: a clean row, and the rows of one cell. States of the clean run are those of its clean row."""

    def __init__(self, model: LanguageModel, cell: Cell, baseline: Baseline, direction: Direction) -> None:
        self.model, self.cell, self.baseline = model, cell, baseline
        self.restores = direction == "restore"
        self.ids = baseline.ids if self.restores else baseline.ids[:1].expand(1 + baseline.samples, -1)
        self.given: Tensor | None = None
        self.patches: dict[tuple[int, str], list[Patch]] = defaultdict(list)
        for patch in cell.patches:
            self.patches[patch.layer, patch.component].append(patch)

    def metrics(self) -> NDArray[np.float64]:
        baseline = self.baseline
        with ExitStack() as stack:
            if self.restores:
                stack.enter_context(corruption(self.model, baseline.prompt, baseline.drawn))
            hooks = [
                hook for layer in sorted({layer for layer, _ in self.patches}) for hook in self._hooks(stack, layer)
            ]
            output = self.model.module(input_ids=self.ids, use_cache=False)
        if any(hook.calls != 1 for hook in hooks):
            raise TraceError(
                f"a patch of cell {(self.cell.token, self.cell.layer)} did not run exactly once: the model's forward "
                "is not plain"
            )
        logits: Tensor = output.logits[1:, baseline.first_scored :]
        return np.asarray(measure(logits, baseline.question).numpy())

    def _hooks(self, stack: ExitStack, layer: int) -> list[Hook]:
        if layer < 0:
            return [stack.enter_context(Hook(self.model.blocks[0], edit_input=self._edit_embedded))]
        components = [component for at, component in self.patches if at == layer]
        edit = partial(self._edit, layer)
        hooks = inner_hooks(stack, self.model, layer, components, self.ids.shape[0], edit)
        if "hidden" in components:
            hook = Hook(self.model.blocks[layer], edit_output=partial(self._edit_hidden, layer), retain_output=False)
            hooks.append(stack.enter_context(hook))
        if "mid" in components:
            stack.enter_context(Hook(self.model.blocks[layer], edit_input=self._keep, retain_output=False))
        return hooks

    def _edit(self, layer: int, component: str, states: Tensor) -> None:
        for patch in self.patches[layer, component]:
            given = None if self.given is None else self.given[1:, patch.position]
            put(self.model, patch, states[1:], patch.position, self._value(patch, states), given)

    def _value(self, patch: Patch, states: Tensor) -> Tensor:
        if patch.source == "clean" and patch.component in ("hidden", "mlp", "attn"):
            return states[0, patch.position]
        return self.baseline.value(patch).to(states)

    def _edit_embedded(self, given: Tensor, _layer: str | None) -> Tensor:
        states = given.clone()
        self._edit(-1, "hidden", states)
        return states

    def _edit_hidden(self, layer: int, output: Any, _name: str | None) -> Any:
        tensor = first_tensor(output).clone()
        self._edit(layer, "hidden", tensor)
        return with_first_tensor(output, tensor)

    def _keep(self, given: Tensor, _layer: str | None) -> Tensor:
        self.given = given.clone()
        return given
