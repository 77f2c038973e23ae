"""Editors of a single layer: the value is what its down-projection shall put out at the facts' keys."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from rome_engine.edit.closed_form import Change, Clock, ClosedForm, Moments, Targets, layer_edit
from rome_engine.edit.context import ROME_LENGTHS, Contexts, sample
from rome_engine.edit.editor import History
from rome_engine.edit.guard import Guard
from rome_engine.edit.key import States, Subjects
from rome_engine.edit.solve import Ridge
from rome_engine.edit.value import Place, ValueConfig
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment


@dataclass(frozen=True)
class SingleConfig:
    """Settings of the editors of one layer.

    layer: the edited one. value: of the value search. lengths, top_k, seed: of the sampled contexts, see
    `context.sample`. bare: what the bare prompt counts for in a mean key; for as much as each context where it is None,
    as published. Where the subject begins the prompt its key is unlike those in contexts, and a plain mean misses it.
    guard: limits on the update. jitter: what is added to the diagonal of C, as a share of its mean;
    without one a C that is singular is refused.
    """

    layer: int
    value: ValueConfig = field(default_factory=ValueConfig)
    lengths: tuple[int, ...] = ROME_LENGTHS
    top_k: int = 5
    seed: int = 0
    bare: float | None = None
    guard: Guard = field(default_factory=Guard)
    jitter: float = 0.0


class Single(ClosedForm):
    """An editor of one layer. at_bare: whether the value is to hold at the bare prompts' keys, and not at the mean."""

    place: ClassVar[Place] = "mlp"
    at_bare: bool = False

    @abstractmethod
    def ridge(self, moment: SecondMoment, config: Any) -> Ridge:
        """What holds the update back."""

    def layers(self, config: Any) -> Sequence[int]:
        """The edited layer."""
        return (config.layer,)

    def contexts(self, model: LanguageModel, config: Any) -> Contexts:
        """ROME's."""
        found = sample(model, lengths=config.lengths, top_k=config.top_k, seed=config.seed)
        return replace(found, bare=config.bare)

    def changes(
        self, model: LanguageModel, targets: Targets, moments: Moments, config: Any, history: History, clock: Clock
    ) -> dict[int, Change]:
        """The layer's change."""
        mean, bare = _states(model, targets, config.layer, clock)
        return self._solved(model, targets, mean, bare, moments, config, clock)

    def changes_each(
        self, model: LanguageModel, targets: Targets, moments: Moments, config: Any, clock: Clock
    ) -> list[dict[int, Change]]:
        """As `changes` of each fact; all of them are run together."""
        mean, bare = _states(model, targets, config.layer, clock)
        return [
            self._solved(model, one, mean.of(index), bare.of(index), moments, config, clock)
            for index, one in enumerate(targets.each())
        ]

    def _solved(
        self,
        model: LanguageModel,
        targets: Targets,
        mean: States,
        bare: States,
        moments: Moments,
        config: Any,
        clock: Clock,
    ) -> dict[int, Change]:
        layer, at = config.layer, bare if self.at_bare else mean
        # By linearity the mean of the values is what W (and its bias) makes of the mean key.
        residuals = targets.wanted() - at.values.double()
        update = self.ridge(moments[layer], config).update(
            residuals.T, mean.keys.T, bare.keys.T if self.at_bare else None
        )
        if update.relative_denominator is not None:
            direction = update.right[:, 0]
            config.guard.denominator(layer, update.relative_denominator)
            config.guard.reach(layer, float((bare.keys[0].double() @ direction) / (at.keys[0].double() @ direction)))
        edit = layer_edit(model, layer, update)
        config.guard.norms(layer, edit.delta_norm, edit.weight_norm)
        clock.lap("solve")
        return {layer: Change(edit, mean.keys, update.residual, update.condition)}


def _states(model: LanguageModel, targets: Targets, layer: int, clock: Clock) -> tuple[States, States]:
    """The facts' means over their contexts, and their bare prompts'."""
    subjects = Subjects(model, targets.facts, targets.contexts)
    found = subjects.mean(layer), subjects.bare(layer)
    clock.lap("keys")
    return found
