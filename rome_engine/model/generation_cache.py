"""Keys and values of texts that are generated, in memory that is taken once.

transformers' own cache copies all of a layer's keys and values for each token, and has them twice meanwhile.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class _Layer(DynamicLayer):
    def __init__(self, tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tokens = tokens
        self._filled = 0
        self._room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All keys and values so far (rows, kv_heads, tokens, d_head), these behind the others; views."""
        given = key_states, value_states
        if self._room is None:
            self.lazy_initialization(*given)
            first, second = (states.new_empty(*states.shape[:2], self._tokens, states.shape[-1]) for states in given)
            self._room = first, second
        begin, self._filled = self._filled, self._filled + key_states.shape[-2]
        for room, states in zip(self._room, given, strict=True):
            room.narrow(2, begin, key_states.shape[-2]).copy_(states)
        self.keys, self.values = (room[:, :, : self._filled] for room in self._room)
        return self.keys, self.values


def generation_cache(layers: int, tokens: int) -> Cache:
    """An empty cache for texts of at most so many tokens, prompts and padding included."""
    return Cache(layers=[_Layer(tokens) for _ in range(layers)])
