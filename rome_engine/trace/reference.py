"""The reference engine: one forward pass of the whole batch a cell. What the fast engine must agree with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rome_engine.errors import TraceError
from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.hooks import first_tensor, with_first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace.baseline import Baseline, corrupted_ids, corruption
from rome_engine.trace.plan import Cell, Patch, Progress


@torch.no_grad()
def run(
    model: LanguageModel, cells: Sequence[Cell], baseline: Baseline, progress: Progress | None = None
) -> NDArray[np.float64]:
    """The score of each cell: the answer's probability, averaged over the corrupted rows, shape (cells,).

    Raises TraceError where a planned patch did not fire exactly once.
    """
    scores = np.empty(len(cells))
    for index, cell in enumerate(cells):
        scores[index] = _score(model, cell, baseline)
        if progress is not None:
            progress(index + 1, len(cells))
    return scores


def _score(model: LanguageModel, cell: Cell, baseline: Baseline) -> float:
    ids = corrupted_ids(model, baseline.prompt, baseline.samples)
    with ExitStack() as stack:
        stack.enter_context(corruption(model, baseline.prompt, baseline.noise))
        hooks = [
            stack.enter_context(
                Hook(
                    model.output(patch.component, patch.layer),
                    edit_output=_restore(patch, ids.shape),
                    retain_output=False,
                )
            )
            for patch in cell.patches
        ]
        logits = model.module(input_ids=ids, use_cache=False).logits[1:, -1]
    if any(hook.calls != 1 for hook in hooks):
        raise TraceError(
            f"a patch of cell {(cell.token, cell.layer)} did not run exactly once: the model's forward is not plain"
        )
    return float(logits.float().softmax(-1)[:, baseline.answer_id].double().mean())


def _restore(patch: Patch, shape: torch.Size) -> Callable[[Any, str | None], Any]:
    """Put the clean row's state into the corrupted rows of the same batch."""

    def edit(output: Any, _layer: str | None) -> Any:
        tensor: Tensor = first_tensor(output).clone()
        states = tensor.view(*shape, -1)  # (rows, tokens, d_model); OPT flattens the first two
        states[1:, patch.position] = states[0, patch.position]
        return with_first_tensor(output, tensor)

    return edit
