"""AlphaEdit: MEMIT's spreading with updates confined to directions that ordinary keys hardly have.

Source: Fang et al. 2025 (arXiv 2410.02355), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from rome_engine.edit.solve import Ridge
from rome_engine.edit.spread import Spread, SpreadConfig, default_config
from rome_engine.errors import EditError
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment


@dataclass(frozen=True)
class AlphaEditConfig(SpreadConfig):
    """Settings of AlphaEdit.

    l2: the weight of ‖Δ‖². threshold: eigenvectors of C with eigenvalues below it are what Δ may use.
    """

    l2: float = 10.0
    threshold: float = 0.02


@dataclass(frozen=True)
class AlphaEdit(Spread):
    """[P (K Kᵀ + H) + L2·I] Δᵀ = P K Rᵀ in each layer, P the projector on the small eigenvectors of C."""

    name: str = "alphaedit"
    keeps_history: bool = True

    def published(self, model: LanguageModel, layer: int | None = None) -> AlphaEditConfig:
        """MEMIT's settings for a model with AlphaEdit's L2, up to this layer where one is named. Raises EditError."""
        return default_config(AlphaEditConfig, model, "alphaedit", layer)

    def ridge(
        self, moment: SecondMoment, config: AlphaEditConfig, history: Float64[Tensor, "d_mlp d_mlp"] | None
    ) -> Ridge:
        """A = L2·I + H within the small eigenvectors."""
        basis = moment.null_space(config.threshold)
        if not basis.shape[1]:
            raise EditError(
                f"C has no eigenvalue below {config.threshold:g}, so no direction is free: raise the threshold"
            )
        matrix = config.l2 * torch.eye(basis.shape[1]).to(basis)
        if history is not None:
            matrix = matrix + basis.T @ history @ basis
        return Ridge.of(matrix, basis=basis)


EDITORS = (AlphaEdit(),)
