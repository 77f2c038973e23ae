"""The edits in force on a model, and the weights as they were before the first of them.

Weights are never restored by subtraction, which is off in about one float of nine. The unedited weight is kept; taking
an edit out, first or last, writes it back and adds the edits that stay, in their order: the result is bit for bit what
applying those alone would have made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import EditError
from rome_engine.model.language_model import LanguageModel

_ATTRIBUTE = "_rome_engine_edits"


@runtime_checkable
class Change(Protocol):
    """A change of one weight."""

    def added_to(self, weight: Float[Tensor, "d_model d_mlp"]) -> Float[Tensor, "d_model d_mlp"]:
        """The changed weight; the given one stays as it is."""


@dataclass(eq=False)
class _State:
    unedited: dict[int, Tensor] = field(default_factory=dict)
    active: dict[int, Mapping[int, Change]] = field(default_factory=dict)
    given: int = 0


class Stack:
    """The stack of one model. Its state lies on the Hugging Face module, so that all who hold the module share it."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        state = vars(model.module).setdefault(_ATTRIBUTE, _State())
        assert isinstance(state, _State)
        self._state: _State = state

    def __len__(self) -> int:
        return len(self._state.active)

    def unedited(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        """The layer's weight as it is without any edit; not to be changed."""
        return self._state.unedited.get(layer, self._model.weight(layer))

    def handle(self) -> Handle:
        """That of changes to come. Where its `undo` is sure to be called first, no interrupt leaves them in force."""
        self._state.given += 1
        return Handle(self, self._state.given)

    @torch.no_grad()
    def push(self, changes: Mapping[int, Change], handle: Handle | None = None) -> Handle:
        """Add changes on top. Whatever is raised meanwhile, the weights are then as before."""
        state = self._state
        handle = handle or self.handle()
        number = handle.number
        try:
            for layer in changes:
                if layer not in state.unedited:
                    state.unedited[layer] = self._model.weight(layer).clone()
            state.active[number] = changes
            for layer, change in changes.items():
                weight = self._model.weight(layer)
                weight.copy_(change.added_to(weight))
        except BaseException:
            self._without(number, changes)
            raise
        return handle

    def remove(self, number: int) -> None:
        """Take changes out; those already taken out are no matter."""
        changes = self._state.active.get(number)
        if changes is None:
            return
        try:
            self._without(number, changes)
        except BaseException:  # an interrupt must not leave a weight half restored
            self._without(number, changes)
            raise

    @torch.no_grad()
    def _without(self, number: int, changes: Mapping[int, Change]) -> None:
        state = self._state
        staying = [other for key, other in state.active.items() if key != number]
        for layer in changes:
            if layer not in state.unedited:
                continue
            weight = state.unedited[layer]
            touching = [other[layer] for other in staying if layer in other]
            for change in touching:
                weight = change.added_to(weight)
            self._model.weight(layer).copy_(weight)
            if not touching:
                del state.unedited[layer]
        state.active.pop(number, None)


@dataclass(frozen=True, eq=False)
class Handle:
    """An edit in force. `undo` takes it out; calling it again does nothing."""

    stack: Stack
    number: int

    def undo(self) -> None:
        """Take the edit out: the weights are bit for bit what they would be had it never been applied."""
        self.stack.remove(self.number)


def require_present(model: LanguageModel, layer: int) -> None:
    """Raises EditError where the layer's weight is not in memory but offloaded."""
    if model.is_offloaded(layer):
        raise EditError(
            f"the weight of layer {layer} is offloaded and cannot be edited: load the model without offloading"
        )
