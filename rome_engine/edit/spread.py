"""Editors that spread a change over several layers, each taking its share of what the layers below have left."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from jaxtyping import Float64
from torch import Tensor

from rome_engine.edit.closed_form import Change, Clock, ClosedForm, Moments, Targets, layer_edit
from rome_engine.edit.context import MEMIT_LENGTH, MEMIT_OPENINGS, Contexts, sample_begun
from rome_engine.edit.defaults import preset_for
from rome_engine.edit.editor import History, check_layer
from rome_engine.edit.guard import Guard
from rome_engine.edit.key import Subjects
from rome_engine.edit.solve import Ridge
from rome_engine.edit.stack import Stack
from rome_engine.edit.value import Place, ValueConfig
from rome_engine.errors import EditError
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpreadConfig:
    """Settings of the editors of several layers.

    layers: the edited ones, upwards; the values are searched at the last. value: of the value search. openings, length,
    top_k, seed: of the sampled contexts, see `context.sample_begun`. guard: limits on the updates.
    """

    layers: tuple[int, ...]
    value: ValueConfig = field(default_factory=ValueConfig)
    openings: tuple[str, ...] = MEMIT_OPENINGS
    length: int = MEMIT_LENGTH
    top_k: int = 5
    seed: int = 0
    guard: Guard = field(default_factory=Guard)


AnyConfig = TypeVar("AnyConfig", bound=SpreadConfig)


class Spread(ClosedForm):
    """An editor of several layers."""

    place: ClassVar[Place] = "hidden"

    @abstractmethod
    def ridge(self, moment: SecondMoment, config: Any, history: Float64[Tensor, "d_mlp d_mlp"] | None) -> Ridge:
        """What holds the update of a layer back, given H of the edits before."""

    def divisor(self, left: int) -> float:
        """What a residual is divided by where this many layers, itself counted, are left to take it up."""
        return float(left)

    def layers(self, config: Any) -> Sequence[int]:
        """The edited layers."""
        layers: Sequence[int] = config.layers
        return layers

    def contexts(self, model: LanguageModel, config: Any) -> Contexts:
        """MEMIT's."""
        return sample_begun(model, openings=config.openings, length=config.length, top_k=config.top_k, seed=config.seed)

    def check_model(self, model: LanguageModel) -> None:
        """Raises EditError where what an MLP puts out is not what is added to the residual stream."""
        if self.place == "hidden" and model.architecture.sandwich:
            raise EditError(
                f"{self.name} adds to the residual stream, but this model norms what an MLP puts out before it is "
                "added: use r-rome, emmet or pmet"
            )

    def changes(
        self, model: LanguageModel, targets: Targets, moments: Moments, config: Any, history: History, clock: Clock
    ) -> dict[int, Change]:
        """Layer by layer: the keys on the model with the changes below in force, and what is left of the residuals.

        Source: MEMIT (arXiv 2210.07229) algorithm 1.
        """
        layers, wanted = self.layers(config), targets.wanted()
        subjects, stack = Subjects(model, targets.facts, targets.contexts), Stack(model)
        found: dict[int, Change] = {}
        with ExitStack() as temporary:
            for done, layer in enumerate(layers):
                keys = subjects.mean_keys(layer)
                top = subjects.bare_outputs(layers[-1], "hidden" if self.place == "hidden" else "values")
                clock.lap("keys")
                missing = wanted - top.double()
                residuals = missing / self.divisor(len(layers) - done)
                update = self.ridge(moments[layer], config, history.get(layer)).update(residuals.T, keys.T)
                edit = layer_edit(model, layer, update)
                config.guard.norms(layer, edit.delta_norm, edit.weight_norm)
                found[layer] = Change(edit, keys, update.residual, update.condition)
                log.info("layer %d: ‖z − h‖ = %.4g before, ‖Δ‖ = %.4g", layer, float(missing.norm()), edit.delta_norm)
                if layer != layers[-1]:
                    handle = stack.handle()
                    temporary.callback(handle.undo)
                    stack.push({layer: edit}, handle)
                clock.lap("solve")
        return found


def default_config(kind: type[AnyConfig], model: LanguageModel, method: str, layer: int | None) -> AnyConfig:
    """A method's settings for a model, its layers shifted so that `layer` is the last where one is named.

    Raises EditError for a layer out of range.
    """
    preset = preset_for(model, method)
    last = preset.layers[-1]
    shift = 0 if layer is None else check_layer(model, layer) - last
    layers = tuple(moved for moved in (at + shift for at in preset.layers) if moved >= 0)
    return kind(layers=layers, value=preset.value, **preset.others)
