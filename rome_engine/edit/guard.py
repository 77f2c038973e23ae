"""Guards against an edit that would wreck the model: a small denominator, a huge update, or numbers that are none.

Mixing k̄ and k₀, as ROME does, can make uᵀk₀ almost vanish: one such edit destroys the model (arXiv 2403.07175).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import isnan
from typing import Literal, get_args

import torch
from torch import Tensor

from rome_engine.errors import EditError

log = logging.getLogger(__name__)

Policy = Literal["warn", "refuse"]


@dataclass(frozen=True)
class Guard:
    """Limits and what happens beyond them: "warn" logs a warning, "refuse" raises EditError.

    min_denominator: of |uᵀk| as a share of k̄ᵀC⁻¹k̄ (1 for R-ROME). min_reach: of the share of the change that the bare
    prompt gets, uᵀk₀ / uᵀk (1 for ROME). max_norm: of ‖Δ‖ / ‖W‖ (Frobenius).
    """

    min_denominator: float = 0.2
    min_reach: float = 0.3
    max_norm: float = 0.5
    policy: Policy = "warn"

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise EditError(f"a guard's policy is {' or '.join(get_args(Policy))}, not {self.policy!r}")
        if any(isnan(limit) for limit in (self.min_denominator, self.min_reach, self.max_norm)):
            raise EditError(f"{self}: a limit must be a number")

    def denominator(self, layer: int, relative: float) -> None:
        """Check a rank-one update's relative denominator."""
        if not abs(relative) >= self.min_denominator:  # NaN is beyond every limit
            self._object(
                f"the update of layer {layer} has a small denominator ({relative:.3g} of its natural scale, limit "
                f"{self.min_denominator:g}) and may damage the model: use the method r-rome, which cannot have one"
            )

    def reach(self, layer: int, reach: float) -> None:
        """Check how much of the wanted change arrives at the prompt itself."""
        if not reach >= self.min_reach:
            self._object(
                f"{reach:.0%} of the change of layer {layer} reaches the prompt (limit {self.min_reach:.0%}): its "
                "subject's key is unlike that in other contexts, as at the very start of a text; begin the prompt with "
                "other words"
            )

    def norms(self, layer: int, delta: float, weight: float) -> None:
        """Check ‖Δ‖ against ‖W‖."""
        if not delta <= self.max_norm * weight:
            self._object(
                f"the update of layer {layer} is large (‖Δ‖ = {delta:.3g}, ‖W‖ = {weight:.3g}, limit "
                f"{self.max_norm:g} of it) and may damage the model: use another layer, or a smaller clamp"
            )

    def _object(self, message: str) -> None:
        if self.policy == "refuse":
            raise EditError(message)
        log.warning(message)


def require_finite(what: str, *tensors: Tensor) -> None:
    """Raises EditError, whatever the policy, where a tensor holds anything that is not finite."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise EditError(f"{what}: not all numbers are finite (float32 weights, or a lower learning rate, may help)")
