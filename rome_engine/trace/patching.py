"""Making patches inside a block: the hooks that both engines place, on however many rows they run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Any

from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import TraceError
from rome_engine.model.heads import attention_projection, head_slice
from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.hooks import first_tensor, with_first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace.plan import Patch

Rows = Float[Tensor, "rows tokens width"]
Edit = Callable[[str, Rows], None]
"""Told the component and its states (rows, tokens, width): changes them in place."""


def inner_hooks(
    stack: ExitStack, model: LanguageModel, layer: int, components: Collection[str], rows: int, edit: Edit
) -> list[Hook]:
    """Hooks on one block that call `edit` for each component: "head", then "attn" and "mid", then "mlp"."""
    hooks = []
    if "head" in components:
        heads = _Edited(rows, ["head"], edit)
        hooks.append(Hook(attention_projection(model, layer), edit_input=heads.given, retain_output=False))
    for kind, names in (("attn", ("attn", "mid")), ("mlp", ("mlp",))):
        if present := [name for name in names if name in components]:
            added = _Edited(rows, present, edit)
            hooks.append(Hook(model.output(kind, layer), edit_output=added.output, retain_output=False))
    for hook in hooks:
        stack.enter_context(hook)
    return hooks


class _Edited:
    """What a hook does: some models hand their states on with rows and tokens in one dimension.

    What a projection or a norm gave is nobody else's, so it is changed in place.
    """

    def __init__(self, rows: int, components: Sequence[str], edit: Edit) -> None:
        self._rows, self._components, self._edit = rows, components, edit

    def given(self, tensor: Tensor, _layer: str | None) -> Tensor:
        states = tensor.contiguous().view(self._rows, -1, tensor.shape[-1])
        for component in self._components:
            self._edit(component, states)
        return states.view(tensor.shape)

    def output(self, output: Any, layer: str | None) -> Any:
        return with_first_tensor(output, self.given(first_tensor(output), layer))


def put(
    model: LanguageModel, patch: Patch, states: Rows, token: int, value: Tensor, given: Tensor | None = None
) -> None:
    """Make one patch in the states of its component: rows of one experiment, token counted as in `states`.

    given: the block's own input at that token, (rows, d_model): the residual after the attention is set by what the
    attention has to add to it.
    """
    if patch.component == "head":
        states[:, token, head_slice(model, patch.head)] = value
    elif patch.component == "mid":
        if given is None:
            raise TraceError("the residual after the attention cannot be set without the block's input")
        states[:, token] = value - given.to(value.device)
    else:
        states[:, token] = value
