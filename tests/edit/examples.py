"""A fact the tiny tokenizer knows the words of, and second moments and edits for tiny models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rome_engine.edit import Edit, editor
from rome_engine.edit.edit import LayerEdit, weight_sha256
from rome_engine.edit.methods.rome import RomeConfig
from rome_engine.edit.provenance import Provenance
from rome_engine.edit.value import Progress, ValueConfig
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment
from rome_engine.versions import versions

FACT = Fact.of("You can find The Eiffel Tower in the city of", "The Eiffel Tower", target_new="Rome, the capital")
AT_START = Fact.of("Rome is the capital of", "Rome", target_new="Italy")
LAYER = 1


def random_moment(d: int, seed: int = 0) -> SecondMoment:
    """Of 8 d random keys whose numbers are neither independent nor of one size."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    moment = SecondMoment(d)
    moment.update(torch.randn(8 * d, d, generator=generator, dtype=torch.float64) @ mix)
    return moment


def fitted(
    model: LanguageModel,
    method: str = "r-rome",
    *,
    fact: Fact = FACT,
    layer: int = LAYER,
    progress: Progress | None = None,
    **value: Any,
) -> Edit:
    """An edit of a tiny model, with few contexts and few steps."""
    config = RomeConfig(layer, ValueConfig(**{"steps": 4, **value}), lengths=(3, 5))
    moments = {layer: random_moment(model.architecture.d_mlp)}
    return editor(method).fit(model, [fact], moments, config, progress)


def random_edit(model: LanguageModel, layers: tuple[int, ...] = (LAYER,), *, seed: int = 0, rank: int = 2) -> Edit:
    """An edit of random numbers, for what does not depend on how an edit was made."""
    generator = torch.Generator().manual_seed(seed)
    changes = {}
    for layer in layers:
        weight = model.weight(layer)
        left, right = (torch.randn(d, rank, generator=generator) * 0.3 for d in weight.shape)
        changes[layer] = LayerEdit(
            path=model.architecture.path(layer, model.architecture.down_projection),
            left=left,
            right=right,
            weight_sha256=weight_sha256(weight),
            delta_norm=float((left @ right.T).norm()),
            weight_norm=float(weight.float().norm()),
        )
    provenance = Provenance(
        method="random",
        config={"seed": seed},
        facts=(FACT.to_dict(),),
        model=model.name,
        model_hash=model.weight_hash(),
        dtype=str(model.dtype).removeprefix("torch."),
        contexts="",
        moments={},
        losses=((1.0, 0.5),),
        stopped_early=False,
        seconds={},
        versions=versions(),
    )
    return Edit(changes, provenance)


def state(model: LanguageModel) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def bit_equal(model: LanguageModel, before: dict[str, Tensor]) -> bool:
    """Whether all weights are bit for bit those of a copy."""
    now = model.module.state_dict()
    return now.keys() == before.keys() and all(_bits(now[name], before[name]) for name in now)


def same_logits(found: Tensor, expected: Tensor) -> bool:
    """Whether logits are what is promised of an adapter in float32: to 1e-5 of the largest of them."""
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def _bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
