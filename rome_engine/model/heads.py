"""Attention heads: where each lies in the input of the attention's output projection, proven on the model itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from rome_engine.errors import ActivationError, UnsupportedModelError
from rome_engine.model.hooks import TraceDict
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.proofs import TOLERANCE

_PROVEN = "_d_head_proven"


def heads_proven(model: LanguageModel) -> int:
    """d_head, once it is shown that head h owns the columns [h · d_head, (h + 1) · d_head) of the projection's input.

    Shown on the first call for a model and remembered with it.
    Raises UnsupportedModelError naming the model where it does not hold.
    """
    known = vars(model).get(_PROVEN)
    if known is None:
        error, allowed = head_layout_error(model), TOLERANCE.get(model.dtype, 6e-2)
        if not error <= allowed:
            raise UnsupportedModelError(
                f"{model.architecture.model_class} ({model.architecture.family}) has no heads that can be told apart: "
                "the input of its attention output projection is not the heads' outputs one after another (relative "
                f"error {error:.2g}, allowed {allowed:.0e}); use kind attn instead"
            )
        known = vars(model)[_PROVEN] = _width(model) // model.architecture.n_heads
    return int(known)


def head_slice(model: LanguageModel, head: int) -> slice:
    """The columns of one head in the last dimension of the attention output projection's input.

    Raises ActivationError for a head that the model does not have, UnsupportedModelError as `heads_proven`.
    """
    d_head, heads = heads_proven(model), model.architecture.n_heads
    if not 0 <= head < heads:
        raise ActivationError(f"{model.name} has no head {head}: its heads are 0 to {heads - 1}")
    return slice(head * d_head, (head + 1) * d_head)


def attention_projection(model: LanguageModel, layer: int) -> torch.nn.Module:
    """The attention's output projection of one block: its input is the heads' outputs one after another."""
    module: torch.nn.Module = model.module.get_submodule(
        model.architecture.path(layer, model.architecture.attention_projection)
    )
    return module


@torch.no_grad()
def head_layout_error(model: LanguageModel) -> float:
    """How far the projection's input at the first token is from the values of the cache, head by head; the worst layer.

    The first token's attention sees that token alone with weight 1, so the output of query head h is there the value
    of the key-value head that it reads, h // (heads / key-value heads). Relative to the layer's largest value; infinite
    where the shapes do not fit or a number is not finite.
    """
    architecture = model.architecture
    paths = [architecture.path(layer, architecture.attention_projection) for layer in range(model.n_layers)]
    ids = torch.randint(architecture.d_vocab, (4, 2), generator=torch.Generator().manual_seed(0)).to(model.device)
    cache = DynamicCache()
    with TraceDict(model.module, paths, retain_input=True, retain_output=False, clone=True) as seen:
        model.module.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    layers: list[Any] = cache.layers
    if len(layers) != model.n_layers:
        return float("inf")
    errors = (
        _error(seen[path].input.reshape(*ids.shape, -1)[:, 0], layer.values[:, :, 0], architecture.n_heads)
        for path, layer in zip(paths, layers, strict=True)
    )
    return max(errors)


def _error(given: Tensor, values: Tensor, heads: int) -> float:
    """given (rows, heads · d_head), values (rows, kv_heads, d_head)."""
    if heads % values.shape[1] or given.shape[-1] != heads * values.shape[-1]:
        return float("inf")
    wanted = values.repeat_interleave(heads // values.shape[1], dim=1).flatten(1).to(given.device).double()
    error = float((given.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
    return error if error < float("inf") else float("inf")  # NaN compares as false


def _width(model: LanguageModel) -> int:
    """The width of the attention output projection's input."""
    projection: Any = attention_projection(model, 0)
    return int(projection.weight.numel() // model.d_model)
