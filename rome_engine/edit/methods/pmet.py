"""PMET: MEMIT that spreads less evenly, by the square root of the layers left, and aims at the MLP's own output.

Source: PMET (Li et al. 2024, arXiv 2308.08742). A change of the attention's output is searched along with the MLP's, so
that the MLP need not stand in for it, and only the MLP's is written into the weights. In a block whose attention and
MLP are parallel the two have the same gradient: half of what was found is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from rome_engine.edit.methods.memit import Memit, MemitConfig
from rome_engine.edit.spread import default_config
from rome_engine.edit.value import Place
from rome_engine.model.language_model import LanguageModel


@dataclass(frozen=True)
class Pmet(Memit):
    """Δ = R Kᵀ (λC + K Kᵀ)⁻¹, R the missing part of the last layer's MLP output / √(layers left)."""

    name: str = "pmet"
    keeps_history: bool = False
    place: ClassVar[Place] = "both"

    def published(self, model: LanguageModel, layer: int | None = None) -> MemitConfig:
        """The published or measured settings for a model, up to this layer where one is named. Raises EditError."""
        return default_config(MemitConfig, model, "pmet", layer)

    def divisor(self, left: int) -> float:
        """√(layers left)."""
        return sqrt(left)


EDITORS = (Pmet(),)
