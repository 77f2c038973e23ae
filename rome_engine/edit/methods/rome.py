"""ROME and R-ROME: one fact, one layer, a rank-one update of the down-projection.

Sources: Meng et al. 2022 (arXiv 2202.05262), section 3.1; Gupta et al. 2024 (arXiv 2403.07175), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rome_engine.edit.defaults import preset_for
from rome_engine.edit.editor import check_layer
from rome_engine.edit.single import Single, SingleConfig
from rome_engine.edit.solve import Ridge
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment


@dataclass(frozen=True)
class RomeConfig(SingleConfig):
    """Settings of ROME and R-ROME."""


@dataclass(frozen=True)
class Rome(Single):
    """Δ = (v* − W k₀) uᵀ / (uᵀ k₀), u = C⁻¹ k̄. R-ROME has k̄ in every place where k₀ stands here."""

    name: str
    at_bare: bool
    one_fact: ClassVar[bool] = True

    def published(self, model: LanguageModel, layer: int | None = None) -> RomeConfig:
        """The published or measured settings for a model, at this layer where one is named. Raises EditError."""
        preset = preset_for(model, "rome")
        at = check_layer(model, preset.layers[-1] if layer is None else layer)
        return RomeConfig(at, preset.value, **preset.others)

    def ridge(self, moment: SecondMoment, config: RomeConfig) -> Ridge:
        """A = C and no ridge: the value is reached exactly."""
        return Ridge(moment.factor(jitter=config.jitter), weight=0.0)


EDITORS = (Rome("rome", at_bare=True), Rome("r-rome", at_bare=False))
