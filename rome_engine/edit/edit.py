"""An edit: low-rank changes of down-projections, and where they come from. Applying it changes a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rome_engine.edit.guard import require_finite
from rome_engine.edit.provenance import Provenance
from rome_engine.edit.stack import Handle, Stack, require_present
from rome_engine.errors import EditError, EditFileError, StorageError, WrongWeightsError
from rome_engine.files import write_whole
from rome_engine.model.language_model import LanguageModel

FORMAT = "rome_engine.edit/1"


@dataclass(frozen=True, eq=False)
class LayerEdit:
    """The change Δ = left · rightᵀ of one layer's W (d_model, d_mlp), and what was known when it was made.

    path: the module. weight_sha256: of the unedited W. delta_norm, weight_norm: Frobenius. denominator: what the update
    was divided by, relative_denominator: as a share of its natural scale; both None for methods without one.
    """

    path: str
    left: Float32[Tensor, "d_model rank"]
    right: Float32[Tensor, "d_mlp rank"]
    weight_sha256: str
    delta_norm: float
    weight_norm: float
    denominator: float | None = None
    relative_denominator: float | None = None

    def delta(self) -> Float32[Tensor, "d_model d_mlp"]:
        """Δ itself."""
        return self.left @ self.right.T

    def added_to(self, weight: Float[Tensor, "d_model d_mlp"]) -> Float[Tensor, "d_model d_mlp"]:
        """W + Δ in W's type, added in float32 or finer. Raises EditError where that is not finite."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        left, right = (factor.to(weight.device, wide) for factor in (self.left, self.right))
        changed = (weight.to(wide) + left @ right.T).to(weight.dtype)
        require_finite(f"the edited weight {self.path}", changed)
        return changed


@dataclass(frozen=True, eq=False)
class Edit:
    """Changes by layer, and their provenance."""

    layers: Mapping[int, LayerEdit]
    provenance: Provenance

    @property
    def rank(self) -> int:
        """The largest rank a layer's change can have."""
        return max(change.left.shape[1] for change in self.layers.values())

    def delta(self, layer: int) -> Float32[Tensor, "d_model d_mlp"]:
        """Δ of one layer, oriented so that value = (W + Δ) key. Raises EditError for a layer that is not edited."""
        if layer not in self.layers:
            raise EditError(f"layer {layer} is not edited: this edit changes {', '.join(map(str, self.layers))}")
        return self.layers[layer].delta()

    def check(self, model: LanguageModel) -> None:
        """Raises WrongWeightsError, naming the layer, where the edit was made for other weights than the model's.

        The model's are the unedited ones, or the present ones where this edit was made on top of edits in force.
        """
        stack = Stack(model)
        for layer, change in self.layers.items():
            self._check_shape(model, layer, change)
            require_present(model, layer)
            if change.weight_sha256 not in {
                weight_sha256(stack.unedited(layer)),
                weight_sha256(model.weight(layer)),
            }:
                dtype = str(model.weight(layer).dtype).removeprefix("torch.")
                hint = (
                    f"; it was made in {self.provenance.dtype}, these weights are {dtype}"
                    if dtype != self.provenance.dtype
                    else ""
                )
                raise WrongWeightsError(
                    f"the edit was made for other weights: layer {layer} of {model.name} differs from that of "
                    f"{self.provenance.model}{hint}"
                )

    def apply_(self, model: LanguageModel) -> Handle:
        """Change the model's weights in place; the handle undoes it exactly, whatever edits come and go meanwhile.

        Raises WrongWeightsError, and then changes nothing.
        """
        self.check(model)
        return Stack(model).push(self.layers)

    @contextmanager
    def applied(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """The edited model inside the block; after it, however left, the weights are bit for bit what they were."""
        self.check(model)
        stack = Stack(model)
        handle = stack.handle()
        try:
            stack.push(self.layers, handle)
            yield model
        finally:
            handle.undo()

    def save(self, path: str | Path) -> None:
        """Write the edit as safetensors, its provenance as JSON in the file's header. Raises StorageError."""
        write_whole(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        tensors, layers = {}, {}
        for layer, change in self.layers.items():
            tensors[f"{layer}.left"] = change.left.contiguous()
            tensors[f"{layer}.right"] = change.right.contiguous()
            numbers = {name: value for name, value in vars(change).items() if name not in ("left", "right")}
            layers[str(layer)] = numbers
        record = {"layers": layers, "provenance": self.provenance.to_dict()}
        metadata = {"format": FORMAT, "edit": json.dumps(record)}
        return bytes(save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Edit:
        """Read a saved edit.

        Raises StorageError where there is no such file, EditFileError where it is damaged or no edit.
        """
        path = Path(path)
        if not path.is_file():
            raise StorageError(f"there is no edit file {path}: check the path")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        return cls.from_bytes(content, str(path))

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "the content") -> Edit:
        """The edit of what `to_bytes` gave. Raises EditFileError, which calls it by this name."""
        try:
            return cls._read(content)
        except (SafetensorError, EditFileError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise EditFileError(f"{name} is damaged, or no edit: {reason[:200]}; make the edit again") from error

    @classmethod
    def _read(cls, content: bytes) -> Edit:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")  # safetensors: the header's length, the header, the tensors
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise EditFileError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        record: dict[str, Any] = json.loads(metadata["edit"])
        layers = {
            int(layer): LayerEdit(left=tensors[f"{layer}.left"], right=tensors[f"{layer}.right"], **numbers)
            for layer, numbers in record["layers"].items()
        }
        for change in layers.values():
            if change.left.ndim != 2 or change.right.ndim != 2 or change.left.shape[1] != change.right.shape[1]:
                raise EditFileError("its factors do not fit together")
            if not (torch.isfinite(change.left).all() and torch.isfinite(change.right).all()):
                raise EditFileError("not all of its numbers are finite")
        return cls(layers, Provenance.from_dict(record["provenance"]))

    def _check_shape(self, model: LanguageModel, layer: int, change: LayerEdit) -> None:
        if not 0 <= layer < model.n_layers:
            raise WrongWeightsError(
                f"the edit changes layer {layer}, but {model.name} has layers 0 to {model.n_layers - 1}: "
                f"it was made for {self.provenance.model}"
            )
        given = (change.left.shape[0], change.right.shape[0])
        if given != tuple(model.weight(layer).shape):
            raise WrongWeightsError(
                f"the edit was made for other weights: its change of layer {layer} is {given[0]} × {given[1]}, "
                f"the weight of {model.name} is {' × '.join(map(str, model.weight(layer).shape))}"
            )


def weight_sha256(weight: Float[Tensor, "d_model d_mlp"]) -> str:
    """sha256 of a weight's type, shape and content, by W's orientation and not by how the module stores it."""
    content = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.sha256(f"{weight.dtype} {tuple(weight.shape)}".encode())
    digest.update(content.numpy().data)
    return digest.hexdigest()
