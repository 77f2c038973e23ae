"""Edits beside the weights: low-rank paths around down-projections, another edit for each row of a batch if need be.

It has two uses: many edits on one copy of a model (`per_row` here), and an edit of a model whose weights cannot be
changed because they are quantised (`attached`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from rome_engine.edit.edit import Edit
from rome_engine.errors import EditError
from rome_engine.model.language_model import LanguageModel

NONE = -1
"""The place of no edit."""


@dataclass(frozen=True, eq=False)
class _Factors:
    """All edits' changes of one layer; ranks are made equal by zeros, and the last one is no change."""

    left: Float32[Tensor, "edits d_model rank"]
    right: Float32[Tensor, "edits d_mlp rank"]

    @classmethod
    def of(cls, edits: Sequence[Edit], layer: int) -> _Factors:
        changes = [edit.layers.get(layer) for edit in edits]
        shown = next(change for change in changes if change is not None)
        rank = max(change.left.shape[1] for change in changes if change is not None)
        left, right = (factor.new_zeros(len(edits) + 1, factor.shape[0], rank) for factor in (shown.left, shown.right))
        for place, change in enumerate(changes):
            if change is not None:
                left[place, :, : change.left.shape[1]] = change.left
                right[place, :, : change.right.shape[1]] = change.right
        return cls(left, right)

    def to(self, device: torch.device, dtype: torch.dtype) -> _Factors:
        return _Factors(self.left.to(device, dtype), self.right.to(device, dtype))

    def take(self, places: Int[Tensor, " rows"]) -> _Factors:
        places = places.to(self.left.device)
        return _Factors(self.left[places], self.right[places])


class SidePaths:
    """Inside the `with` block row i of every batch has y + left (rightᵀ x) of its edit at every edited layer.

    module: the Hugging Face model; its weights stay as they are. A single edit is every row's until one is chosen.
    """

    def __init__(self, module: nn.Module, edits: Sequence[Edit]) -> None:
        if not edits:
            raise EditError("there are no edits to put beside the model: give at least one")
        self._module = module
        self._edits = len(edits)
        paths = {layer: change.path for edit in edits for layer, change in edit.layers.items()}
        self._layers = {path: _Factors.of(edits, layer) for layer, path in sorted(paths.items())}
        self._places: Tensor | None = None
        self._hooks = ExitStack()

    def choose(self, places: Sequence[int] | Int[Tensor, " rows"]) -> None:
        """Which edit each row of the batches to come has: its place among the edits, or -1 for none.

        Raises EditError for places that are none.
        """
        chosen = torch.as_tensor(places, dtype=torch.long).cpu()
        if not bool(((chosen >= NONE) & (chosen < self._edits)).all()):
            raise EditError(f"rows are given one edit each, 0 to {self._edits - 1}, or {NONE} for none, not {places}")
        self._places = chosen

    def __enter__(self) -> SidePaths:
        with ExitStack() as hooks:
            for path in self._layers:
                module = self._module.get_submodule(path)
                hooks.callback(module.register_forward_hook(partial(self._added, path), with_kwargs=True).remove)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._hooks.close()

    def _added(self, path: str, _module: nn.Module, args: Any, named: Any, value: Tensor) -> Tensor:
        key: Tensor = args[0] if args else next(iter(named.values()))
        factors = self._layers[path]
        wide = torch.promote_types(key.dtype, factors.left.dtype)
        if factors.left.device != key.device or factors.left.dtype != wide:
            factors = self._layers[path] = factors.to(key.device, wide)
        added = _side(key.to(wide), self._of_rows(factors, key))
        return value + added.reshape(value.shape).to(value.dtype)

    def _of_rows(self, factors: _Factors, key: Tensor) -> _Factors:
        """Of the rows of this batch; a single one is all rows'."""
        if self._places is None:
            if self._edits > 1:
                raise EditError(f"there are {self._edits} edits: choose which row has which before the model is run")
            return factors.take(torch.zeros(1, dtype=torch.long))
        rows = len(self._places)
        # Some families flatten rows and tokens before the projection, one row after another.
        if key.shape[0] != rows and (key.ndim > 2 or key.shape[0] % rows):
            raise EditError(f"edits are chosen for {rows} rows, but the batch has {key.shape[0]}: choose again")
        return factors.take(self._places)


def _side(key: Float[Tensor, "*batch d_mlp"], factors: _Factors) -> Float[Tensor, "rows n d_model"]:
    """left (rightᵀ x), the thin product first."""
    rows = factors.left.shape[0]
    return key.reshape(rows, -1, key.shape[-1]) @ factors.right @ factors.left.mT


@contextmanager
def per_row(model: LanguageModel, edits: Sequence[Edit]) -> Iterator[SidePaths]:
    """One copy of a model with another edit for each row of a batch, as `choose` says; the weights stay as they are.

    To rounding a row's logits are those with its edit applied alone. Raises WrongWeightsError as `Edit.check` does.
    """
    for edit in edits:
        edit.check(model)
    with SidePaths(model.module, edits) as paths:
        yield paths
