"""The patches of some branches at one layer, made in the states of all branches that share them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rome_engine.model.heads import head_slice
from rome_engine.model.plain_block import Changes
from rome_engine.trace.baseline import Baseline
from rome_engine.trace.plan import Patch


class Placed:
    """branches: each one's patches at the layer. States are (branches · samples, tokens, width), the last tokens of
    the text."""

    def __init__(self, baseline: Baseline, branches: Sequence[tuple[Patch, ...]]) -> None:
        self._baseline, self._branches = baseline, len(branches)
        self._at: dict[str, dict[Patch, list[int]]] = defaultdict(lambda: defaultdict(list))
        for slot, patches in enumerate(branches):
            for patch in patches:
                self._at[patch.component][patch].append(slot)

    def changes(self, tokens: int) -> Changes:
        """For a plain block that runs on so many of the last tokens."""
        return Changes(
            heads=self._heads if "head" in self._at else None,
            middle=self._middle if self._at.keys() & {"attn", "mid"} else None,
            mlp=self._mlp if "mlp" in self._at else None,
            mlp_tokens=self._seen_by_mlp(tokens) if "mlp" in self._at else None,
        )

    def hidden(self, states: Float[Tensor, "branches samples tokens d_model"]) -> None:
        """Make the patches of the layer's output, as far as their tokens are there."""
        for patch, slots in self._at["hidden"].items():
            token = patch.position - self._baseline.tokens
            if -token <= states.shape[2]:
                states[slots, :, token] = self._baseline.value(patch).to(states)

    def _heads(self, states: Tensor) -> None:
        for patch, slots in self._at["head"].items():
            columns = head_slice(self._baseline.model, patch.head)
            self._apart(states)[slots, :, patch.position - self._baseline.tokens, columns] = self._value(patch, states)

    def _middle(self, given: Tensor) -> Callable[[Tensor], None]:
        made: list[tuple[Any, Tensor]] = []
        for component in ("attn", "mid"):  # in the order in which hooks would make them
            for patch, slots in self._at[component].items():
                at = (slots, slice(None), patch.position - self._baseline.tokens)
                value = self._value(patch, given)
                made.append((at, value if component == "mid" else self._apart(given)[at] + value))
        return partial(self._set, made)

    def _set(self, made: list[tuple[Any, Tensor]], states: Tensor) -> None:
        for at, value in made:
            self._apart(states)[at] = value

    def _mlp(self, states: Tensor) -> None:
        for patch, slots in self._at["mlp"].items():
            self._apart(states)[slots, :, patch.position - self._baseline.tokens] += self._value(patch, states)

    def _seen_by_mlp(self, tokens: int) -> Int[Tensor, " some"]:
        device = self._baseline.embedded.device
        seen = torch.ones(self._branches, self._baseline.samples, tokens, dtype=torch.bool, device=device)
        for patch, slots in self._at["mlp"].items():
            seen[slots, :, patch.position - self._baseline.tokens] = False
        return seen.flatten().nonzero()[:, 0]

    def _apart(self, states: Tensor) -> Tensor:
        return states.view(self._branches, self._baseline.samples, *states.shape[1:])

    def _value(self, patch: Patch, states: Tensor) -> Tensor:
        return self._baseline.value(patch).to(states)
