"""EMMET: R-ROME's objective for many facts at once, its equality constraints softened by a ridge.

Source: Gupta et al. 2024 (arXiv 2403.14236).
"""

from __future__ import annotations

from dataclasses import dataclass

from rome_engine.edit.defaults import preset_for
from rome_engine.edit.editor import check_layer
from rome_engine.edit.single import Single, SingleConfig
from rome_engine.edit.solve import Ridge
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment


@dataclass(frozen=True)
class EmmetConfig(SingleConfig):
    """Settings of EMMET. ridge: ε; 0 keeps every value exactly. scale: c, what C is multiplied by."""

    ridge: float = 0.1
    scale: float = 1.0


@dataclass(frozen=True)
class Emmet(Single):
    """Δ = R (Kᵀ (cC)⁻¹ K + εI)⁻¹ Kᵀ (cC)⁻¹."""

    name: str = "emmet"

    def published(self, model: LanguageModel, layer: int | None = None) -> EmmetConfig:
        """ROME's settings for a model with EMMET's scale, at this layer where one is named. Raises EditError."""
        preset = preset_for(model, "emmet")
        at = check_layer(model, preset.layers[-1] if layer is None else layer)
        return EmmetConfig(at, preset.value, **preset.others)

    def ridge(self, moment: SecondMoment, config: EmmetConfig) -> Ridge:
        """A = C with ε·c: the same as cC with ε."""
        return Ridge(moment.factor(jitter=config.jitter), weight=config.ridge * config.scale)


EDITORS = (Emmet(),)
