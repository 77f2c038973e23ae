"""The edits in force on a model, and the weights as they were before the first of them.

Weights are never restored by subtraction, which is off in about one float of nine. The unedited weight is kept; taking an edit
out, first or last, writes it back and adds the edits that stay, in their order. What remains is bit for bit what applying those
alone would have made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from rome_engine.model.language_model import LanguageModel

_ATTRIBUTE = "_rome_engine_edits"


class Change(Protocol):
    """A change of one weight."""

    def added_to(self, weight: Tensor) -> Tensor:
        """The changed weight; the given one stays as it is."""


class Stack:
    """One per model; it lives on the Hugging Face module, so that every view of that module shares it."""

    def __init__(self) -> None:
        self._unedited: dict[int, Tensor] = {}
        self._active: list[Handle] = []

    @classmethod
    def of(cls, model: LanguageModel) -> _BoundStack:
        """The model's own stack."""
        stack = vars(model.module).get(_ATTRIBUTE)
        if stack is None:
            stack = cls()
            object.__setattr__(model.module, _ATTRIBUTE, stack)
        return _BoundStack(stack, model)
