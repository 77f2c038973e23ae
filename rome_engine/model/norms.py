"""A norm as the affine map that it is for one input, its scale held fixed; measured, whatever its formula.

LayerNorm, RMSNorm and their kin compute s(x) · g ⊙ (x - m(x)) + b, m(x) the mean of x or 0. With s at its actual value
the map is affine, and what a sum of states gives is the sum of what they give (Elhage et al. 2021, "A Mathematical
Framework for Transformer Circuits").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from rome_engine.errors import UnsupportedModelError
from rome_engine.model.offload import in_memory
from rome_engine.model.proofs import TOLERANCE

# What is left of a constant vector, relative to one that alternates: nothing but rounding where the mean is taken out.
CENTRED = 1e-2
# Many norms compute in float32 whatever they are given.
FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """norm(x) = gain ⊙ (x - mean(x) if centred else x) + bias, for one x; in float64."""

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool

    def pull_back(self, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
        """The direction u with u · x = direction · (norm(x) - bias)."""
        weighted = self.gain * direction
        return weighted - weighted.mean() if self.centred else weighted


@torch.no_grad()
def frozen(norm: nn.Module, state: Float[Tensor, " d_model"], output: Float[Tensor, " d_model"]) -> FrozenNorm:
    """The norm's map at this state, for which the model itself computed this output.

    bias is the norm of zero, the gain's shape shows in the norm of an alternating vector, and its size in the norm of
    the state. Raises UnsupportedModelError naming the norm where its output is not of this form.
    """
    width, name = state.shape[-1], type(norm).__name__
    wide = state.double()
    alternating = torch.ones_like(wide)
    alternating[1::2] = -1
    with in_memory(norm):
        bias, alternated, levelled, normed = (
            _run(norm, one) for one in (torch.zeros_like(wide), alternating, torch.ones_like(wide), wide)
        )
    swung, flat, whole = alternated - bias, levelled - bias, normed - bias
    centred = bool(flat.abs().max() <= CENTRED * swung.abs().max())
    shape = swung / (alternating - alternating.mean() if centred else alternating)
    given = shape * (wide - wide.mean() if centred else wide)
    gain = shape * (whole @ given / (given @ given).clamp_min(1e-300))
    found = FrozenNorm(gain, bias, centred)

    rebuilt = gain * (wide - wide.mean() if centred else wide) + bias
    error = float((rebuilt - output.double()).abs().max() / output.double().abs().max().clamp_min(1e-12))
    allowed = max(FLOOR, TOLERANCE.get(output.dtype, 6e-2))
    if width < 2 or not error <= allowed:
        raise UnsupportedModelError(
            f"{name} is no norm whose scale can be held fixed: it is not s(x) · g · (x - m(x)) + b (relative error "
            f"{error:.2g}, allowed {allowed:.0e}), so logits cannot be attributed through it"
        )
    return found


def _run(norm: nn.Module, state: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """The norm in float64, as far as it lets itself be computed so; shaped as in the model, (rows, tokens, d_model)."""
    weights: dict[str, Any] = {name: parameter.double() for name, parameter in norm.named_parameters()}
    result: Tensor = functional_call(norm, weights, (state[None, None],))
    return result[0, 0].double()
