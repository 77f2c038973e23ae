"""How far a second moment has come: how much C⁻¹k still moves as the number of tokens grows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Convergence:
    """C⁻¹k of some of the keys beside C⁻¹k of all of them, over probe keys k.

    u₁ = C₁⁻¹k with C₁ of the first `keys_before` keys (half of the tokens), u₂ = C₂⁻¹k with C₂ of all `keys` of them:

        turned     mean of 1 − cos(u₁, u₂)
        stretched  mean of |‖u₁‖ / ‖u₂‖ − 1|

    over `probes` keys. Closed-form edits of one fact go along C⁻¹k: R-ROME's update is the same for any length of it,
    so that `turned` is what an edit still moves by. In a collection the probes are keys of its first batch. That they
    are in both C does not matter for the direction: adding c·k kᵀ to C changes the length of C⁻¹k alone
    (Sherman and Morrison).
    """

    keys_before: int
    keys: int
    probes: int
    turned: float
    stretched: float

    @classmethod
    def between(
        cls, before: Float[Tensor, "d probes"], after: Float[Tensor, "d probes"], keys_before: int, keys: int
    ) -> Convergence:
        """From u₁ and u₂, a column a probe."""
        first, second = before.double(), after.double()
        cosines = torch.nn.functional.cosine_similarity(first, second, dim=0)
        lengths = first.norm(dim=0) / second.norm(dim=0)
        turned = float((1 - cosines).clamp_min(0).mean())
        return cls(keys_before, keys, first.shape[1], turned, float((lengths - 1).abs().mean()))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file's header."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Convergence:
        """The inverse of `to_dict`. Raises ValueError for missing or ill-typed values."""
        types = get_type_hints(cls)
        given = {field.name: values.get(field.name) for field in fields(cls)}
        for name, value in given.items():
            if type(value) is not types[name]:
                raise ValueError(f"{name} is {value!r}")
        return cls(**given)  # type: ignore[arg-type]
