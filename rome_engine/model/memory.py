"""Memory that is used again: fresh memory of some MB costs as much as what is computed in it, a fault for each page."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Memory:
    """Arrays by name, each as large as the largest that was taken under it; what was taken before is overwritten."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """An array of this shape, of the kind of `like`; its content is undefined."""
        size, held = math.prod(shape), self._held.get(name)
        if held is None or len(held) < size or held.dtype != like.dtype or held.device != like.device:
            self._held.pop(name, None)  # gone before the larger one comes
            held = self._held[name] = like.new_empty(size)
        return held[:size].view(shape)

    def clear(self) -> None:
        """Give all of it back."""
        self._held.clear()

    def product(self, name: str, states: Tensor, linear: nn.Linear) -> Tensor:
        """linear(states)"""
        made = self.take(name, states, *states.shape[:-1], linear.out_features)
        torch.mm(states.reshape(-1, states.shape[-1]), linear.weight.T, out=made.view(-1, linear.out_features))
        return made if linear.bias is None else made.add_(linear.bias)
