"""MEMIT: many facts at once, spread over several layers; and MEMIT that remembers the keys of earlier edits.

Source: Meng et al. 2023 (arXiv 2210.07229), section 4.3; the history as in AlphaEdit's comparison (arXiv 2410.02355).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from rome_engine.edit.solve import Ridge
from rome_engine.edit.spread import Spread, SpreadConfig, default_config
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment


@dataclass(frozen=True)
class MemitConfig(SpreadConfig):
    """Settings of MEMIT.

    weight: λ, how many ordinary keys C counts for beside the facts'. jitter: what is added to the diagonal of C, as a
    share of its mean; without one a C that is singular is refused.
    """

    weight: float = 15000.0
    jitter: float = 0.0


@dataclass(frozen=True)
class Memit(Spread):
    """Δ = R Kᵀ (λC + H + K Kᵀ)⁻¹ in each layer."""

    name: str
    keeps_history: bool
    presets: tuple[str, ...] = ()

    def published(self, model: LanguageModel, layer: int | None = None) -> MemitConfig:
        """The published or measured settings for a model, up to this layer where one is named. Raises EditError."""
        return default_config(MemitConfig, model, "memit", layer)

    def ridge(self, moment: SecondMoment, config: MemitConfig, history: Float64[Tensor, "d_mlp d_mlp"] | None) -> Ridge:
        """A = λC + H; without a history A = C with ε = λ, which needs no factor but C's."""
        # C must be known well enough by itself. With it λC + H is: H is exact, and adding it makes no pivot smaller.
        factor = moment.factor(jitter=config.jitter)
        if history is None:
            return Ridge(factor, weight=config.weight)
        return Ridge.of(config.weight * moment.matrix(jitter=config.jitter) + history)


EDITORS = (
    Memit("memit", keeps_history=False),
    Memit("memit-history", keeps_history=True, presets=("memit-history", "memit")),
)
