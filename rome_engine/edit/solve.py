"""The closed-form updates of a down-projection: algebra on tensors in float64, which knows no models.

Letters as in the papers: W (d_model, d_mlp) the weight, k a key, v a value, C = E[k kᵀ] the keys' second moment,
Δ the update.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rome_engine.errors import EditError


@dataclass(frozen=True, eq=False)
class Update:
    """An update Δ = left · rightᵀ of rank at most r, and the denominator it was divided by.

    `relative_denominator` is the denominator as a share of the one that R-ROME has for the same direction: near 0 the
    update blows up.
    """

    left: Float64[Tensor, "d_model rank"]
    right: Float64[Tensor, "d_mlp rank"]
    denominator: float
    relative_denominator: float

    def dense(self) -> Float64[Tensor, "d_model d_mlp"]:
        """Δ itself."""
        return self.left @ self.right.T


def rank_one(
    target: Float[Tensor, " d_model"],
    current: Float[Tensor, " d_model"],
    key: Float[Tensor, " d_mlp"],
    mean_key: Float[Tensor, " d_mlp"],
    direction: Float[Tensor, " d_mlp"],
) -> Update:
    """Δ = (v* − v) uᵀ / (uᵀ k): the update with (W + Δ) k = v* that changes least of what W does to ordinary keys.

    target: v*. current: v, what W (and its bias) makes of `key`. key: k, the bare prompt's key for ROME and the mean
    key for R-ROME. mean_key: k̄. direction: u = C⁻¹ k̄. With u = C⁻¹ k, Δ minimises tr(Δ C Δᵀ) under that constraint.

    Raises EditError where uᵀk is zero or anything is not finite.
    Source: ROME (arXiv 2202.05262) equation 2; R-ROME (arXiv 2403.07175) section 4.
    """
    wanted, present, at, mean, u = (vector.double() for vector in (target, current, key, mean_key, direction))
    denominator = u @ at
    natural = u @ mean
    if not bool(torch.isfinite(denominator)) or denominator == 0 or not bool(natural > 0):
        raise EditError(
            f"the rank-one update does not exist: its denominator is {float(denominator):.3g} of {float(natural):.3g}; "
            "the second moments may be of another model or of too little text"
        )
    return Update(
        left=((wanted - present) / denominator)[:, None],
        right=u[:, None],
        denominator=float(denominator),
        relative_denominator=float(denominator / natural),
    )
