"""What the fine-tuning baselines have in common: lessons are made of facts, and what a descent found is an edit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jaxtyping import Float32
from torch import Tensor

from rome_engine.edit.closed_form import Clock
from rome_engine.edit.edit import Edit, LayerEdit, weight_sha256
from rome_engine.edit.editor import check_layer
from rome_engine.edit.guard import require_finite
from rome_engine.edit.presets import tuned
from rome_engine.edit.provenance import Provenance
from rome_engine.edit.stack import require_present
from rome_engine.edit.targets import check_new, target_tokens
from rome_engine.edit.tuning import Lesson, Tuned
from rome_engine.edit.value import Progress
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment
from rome_engine.versions import versions

Factors = Mapping[int, tuple[Float32[Tensor, "d_model rank"], Float32[Tensor, "d_mlp rank"]]]
"""Δ = left · rightᵀ by layer, on the CPU."""


class Trained(ABC):
    """An editor that descends on the loss of the targets. It reads no second moments and keeps no history."""

    name: str

    @abstractmethod
    def published(self, model: LanguageModel, layer: int | None = None) -> Any:
        """The settings before those that were measured for these very weights."""

    def default(self, model: LanguageModel, layer: int | None = None) -> Any:
        """See `Editor.default`; a preset that `tune` made for these weights comes first."""
        return tuned(model, (self.name,), self.published(model, layer), layer)

    @abstractmethod
    def edited(self, config: Any) -> Sequence[int]:
        """The layers that are changed, upwards."""

    @abstractmethod
    def train(
        self, model: LanguageModel, lessons: Sequence[Lesson], config: Any, progress: Progress | None
    ) -> tuple[Factors, Tuned]:
        """The changes of the layers, and how they were found; the model is only read."""

    def layers(self, config: Any) -> Sequence[int]:
        """None: no second moments are needed."""
        return ()

    def fit(
        self,
        model: LanguageModel,
        facts: Sequence[Fact],
        moments: Mapping[int, SecondMoment],
        config: Any,
        progress: Progress | None = None,
    ) -> Edit:
        """The edit of any number of facts; the model is only read.

        Raises EditError for no facts, a layer out of range, a loss that is not finite and whatever the guard refuses;
        TargetError and PromptError for a fact that cannot be asked or needs no edit.
        """
        check_new(model, facts, [target_tokens(model, fact) for fact in facts])
        return self.fit_whatever(model, facts, config, progress)

    def fit_whatever(
        self, model: LanguageModel, facts: Sequence[Fact], config: Any, progress: Progress | None = None
    ) -> Edit:
        """As `fit`, also where all targets are the answers already."""
        for layer in self.edited(config):
            require_present(model, check_layer(model, layer))
        clock = Clock()
        factors, descent = self.train(model, _lessons(model, facts), config, progress)
        clock.lap("tuning")
        changes = {layer: _layer_edit(model, layer, *pair) for layer, pair in factors.items()}
        for layer, change in changes.items():
            config.guard.norms(layer, change.delta_norm, change.weight_norm)
        model_hash = model.weight_hash()
        clock.lap("hash")
        provenance = Provenance(
            method=self.name,
            config=asdict(config),
            facts=tuple(fact.to_dict() for fact in facts),
            model=model.name,
            model_hash=model_hash,
            dtype=str(model.weight(next(iter(changes))).dtype).removeprefix("torch."),
            contexts="",  # the bare prompt is the only one
            moments={},
            losses=descent.losses,
            stopped_early=descent.stopped_early,
            seconds=clock.seconds,
            versions=versions(),
        )
        return Edit(changes, provenance)


def _lessons(model: LanguageModel, facts: Sequence[Fact]) -> list[Lesson]:
    if not facts:
        raise EditError("there is no fact to fine-tune on: give at least one")
    return [Lesson.of(model, fact, target_tokens(model, fact)) for fact in facts]


def _layer_edit(model: LanguageModel, layer: int, left: Tensor, right: Tensor) -> LayerEdit:
    norm = (left @ right.T).norm()
    require_finite("the update", left, right, norm)
    weight = model.weight(layer)
    return LayerEdit(
        path=model.architecture.path(layer, model.architecture.down_projection),
        left=left,
        right=right,
        weight_sha256=weight_sha256(weight),
        delta_norm=float(norm),
        weight_norm=float(weight.double().norm()),
    )
