"""LoRA: low-rank adapters on down-projections, trained by gradient descent; the `peft` library makes them.

Source: Hu et al. 2021 (arXiv 2106.09685). The published LoRA baselines of editing adapt attention's projections; here
it is the kind of weight that all the methods edit, so that an `Edit` can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rome_engine.edit.editor import check_layer
from rome_engine.edit.guard import Guard
from rome_engine.edit.question import fine
from rome_engine.edit.trained import Factors, Trained
from rome_engine.edit.tuning import Lesson, Tuned, TuningConfig, tune
from rome_engine.edit.value import Progress
from rome_engine.errors import EditError
from rome_engine.model.architecture import is_conv1d
from rome_engine.model.language_model import LanguageModel


@dataclass(frozen=True)
class LoraConfig:
    """Settings of LoRA.

    layers: the edited ones, upwards. rank: r. alpha: Δ = alpha / r · B A. tuning: of the descent. seed: of A's first
    numbers and the order of the facts. guard: limits on the update.
    """

    layers: tuple[int, ...]
    rank: int = 8
    alpha: int = 16
    # In batches of 4 sixteen facts of the embedded model all reach p = .98; in one batch their mean stays at .49.
    tuning: TuningConfig = field(default_factory=lambda: TuningConfig(50, 1e-3, batch_size=4))
    seed: int = 0
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise EditError(f"the edited layers must be named once each, upwards, not {list(self.layers)}")
        if self.rank < 1 or self.alpha < 1:
            raise EditError(f"rank is {self.rank} and alpha {self.alpha}: both must be at least 1")


@dataclass(frozen=True)
class Lora(Trained):
    """The editor."""

    name: str = "lora"

    def published(self, model: LanguageModel, layer: int | None = None) -> LoraConfig:
        """Adapters in the middle third of the layers, or in the one that is named. Raises EditError.

        In the embedded model MEMIT's layers took more steps for two landmarks (16 and 20, not 13 and 15) and lost as
        many or more of 33 other facts (3 and 26, not 3 and 20).
        """
        if layer is not None:
            return LoraConfig((check_layer(model, layer),))
        third = model.n_layers // 3
        return LoraConfig(tuple(range(third, model.n_layers - third)))

    def edited(self, config: LoraConfig) -> Sequence[int]:
        """The layers with adapters."""
        return config.layers

    def train(
        self, model: LanguageModel, lessons: Sequence[Lesson], config: LoraConfig, progress: Progress | None
    ) -> tuple[Factors, Tuned]:
        """The adapters. Raises EditError where `peft` is not installed."""
        adapted = _adapted(model, config)
        weights = [weight for weight in adapted.parameters() if weight.requires_grad]
        for weight in weights:
            weight.data = weight.data.to(fine(weight.dtype))
        tuned = tune(model, adapted, lessons, weights, config.tuning, seed=config.seed, progress=progress)
        return {layer: _factors(adapted.get_submodule(_path(model, layer))) for layer in config.layers}, tuned


def _adapted(model: LanguageModel, config: LoraConfig) -> Any:
    """A stand-in of the model with adapters, whose weights alone want gradients."""
    try:
        import peft  # optional: only those who use this method need it
    except ImportError as error:
        raise EditError("the method lora needs peft: pip install 'rome-engine[peft]'") from error
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=[_path(model, layer) for layer in config.layers],
        fan_in_fan_out=is_conv1d(model.down_projection(config.layers[0])),
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        return peft.inject_adapter_in_model(settings, _stand_in(model.module))


def _stand_in(module: nn.Module) -> Any:
    """Modules and config of their own over the same weights: what peft changes in them the model never sees."""
    shared: dict[int, Any] = {id(weight): nn.Parameter(weight.data, False) for weight in module.parameters()}
    shared |= {id(buffer): buffer for buffer in module.buffers()}
    return deepcopy(module, shared)


def _factors(adapter: Any) -> tuple[Tensor, Tensor]:
    """Of Δ = scaling · B A."""
    a, b = (part["default"].weight.detach().float().cpu() for part in (adapter.lora_A, adapter.lora_B))
    return adapter.scaling["default"] * b, a.T.contiguous()


def _path(model: LanguageModel, layer: int) -> str:
    return model.architecture.path(layer, model.architecture.down_projection)


EDITORS = (Lora(),)
