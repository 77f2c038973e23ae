"""An edit on a quantised base: its weights cannot be changed, so the change runs beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rome_engine.edit.edit import Edit, LayerEdit
from rome_engine.edit.per_row import SidePaths
from rome_engine.errors import WrongWeightsError

PROBES = 64
MAX_NORM_ERROR = 0.05
"""As a share of ‖W‖. int8 weights are off by some thousandths, 4-bit ones by about one hundredth."""


@contextmanager
def attached(module: nn.Module, edit: Edit) -> Iterator[nn.Module]:
    """The model with the edit beside its weights, for a quantised base of the model that the edit was made for.

    module: the Hugging Face model, as transformers loads it with bitsandbytes or torch.ao quantises it. Its weights
    differ from those that the edit was made for, so no hash can be compared: each edited module must have the edit's
    shape, and the norm of its weight, as its outputs tell it, that of the edit's.
    Raises WrongWeightsError where they have not.
    """
    for change in edit.layers.values():
        _check(module, change, edit.provenance.model)
    with SidePaths(module, [edit]):
        yield module


def _check(module: nn.Module, change: LayerEdit, model: str) -> None:
    try:
        projection = module.get_submodule(change.path)
    except AttributeError as error:
        raise WrongWeightsError(
            f"the edit changes {change.path}, which this {type(module).__name__} has not: it was made for {model}"
        ) from error
    d_model, d_mlp = change.left.shape[0], change.right.shape[0]
    try:
        outputs = _probed(projection, d_mlp, module)
    except (RuntimeError, ValueError) as error:
        raise WrongWeightsError(
            f"the edit's change of {change.path} is {d_model} × {d_mlp}, and the module takes no input of {d_mlp}: "
            f"it was made for {model}"
        ) from error
    if outputs.shape[-1] != d_model:
        raise WrongWeightsError(
            f"the edit's change of {change.path} is {d_model} × {d_mlp}, and the module puts out {outputs.shape[-1]}: "
            f"it was made for {model}"
        )
    norm = float(outputs.norm()) / PROBES**0.5
    if not abs(norm - change.weight_norm) <= MAX_NORM_ERROR * change.weight_norm:
        raise WrongWeightsError(
            f"the edit was made for other weights: ‖W‖ of {change.path} is about {norm:.4g} here and was "
            f"{change.weight_norm:.4g} in {model}"
        )


@torch.no_grad()
def _probed(projection: nn.Module, d_mlp: int, module: nn.Module) -> Tensor:
    """W on normal probes, by which the mean of ‖Wx‖² is ‖W‖²; x and −x together tell it from the bias."""
    like = next(weight for weight in module.parameters() if weight.is_floating_point())
    probes = torch.randn(PROBES, d_mlp, generator=torch.Generator().manual_seed(0))
    both: Any = projection(torch.cat([probes, -probes]).to(_device(projection, like), like.dtype))
    there, back = torch.as_tensor(both).double().chunk(2)
    return (there - back) / 2


def _device(projection: nn.Module, like: Tensor) -> torch.device:
    return next((tensor.device for tensor in (*projection.parameters(), *projection.buffers())), like.device)
