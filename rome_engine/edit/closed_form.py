"""What the closed-form editors have in common: values are searched, then weights are solved that bring them about."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rome_engine.edit.context import Contexts
from rome_engine.edit.edit import Edit, LayerEdit, weight_sha256
from rome_engine.edit.editor import History, check_layer
from rome_engine.edit.grouping import MEMORY
from rome_engine.edit.guard import require_finite
from rome_engine.edit.presets import tuned
from rome_engine.edit.provenance import Provenance
from rome_engine.edit.solve import Update
from rome_engine.edit.stack import require_present
from rome_engine.edit.value import Place, Progress, Value
from rome_engine.edit.values import Store, values
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment
from rome_engine.versions import versions

Moments = Mapping[int, SecondMoment]
Keys = Mapping[int, Float[Tensor, "facts d_mlp"]]


@dataclass(frozen=True, eq=False)
class Targets:
    """What an edit shall bring about: facts, the contexts in which they are asked, and a value for each.

    seconds: what the search took, by phase.
    """

    facts: tuple[Fact, ...]
    contexts: Contexts
    values: tuple[Value, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)

    def wanted(self) -> Float64[Tensor, "facts d_model"]:
        """The values, on the CPU."""
        return torch.stack([value.target.double().cpu() for value in self.values])

    @classmethod
    def joined(cls, parts: Sequence[Targets]) -> Targets:
        """Those of parts, at least one, with the same contexts."""
        seconds: dict[str, float] = {}
        for phase, spent in (item for part in parts for item in part.seconds.items()):
            seconds[phase] = seconds.get(phase, 0.0) + spent
        facts = tuple(fact for part in parts for fact in part.facts)
        return cls(facts, parts[0].contexts, tuple(value for part in parts for value in part.values), seconds)

    def each(self) -> list[Targets]:
        """One for each fact."""
        return [Targets((fact,), self.contexts, (value,)) for fact, value in zip(self.facts, self.values, strict=True)]


@dataclass(frozen=True, eq=False)
class Change:
    """What one layer's weight is changed by, the keys that this was solved for, and how well: see `solve.Update`."""

    edit: LayerEdit
    keys: Float[Tensor, "facts d_mlp"]
    residual: float
    condition: float


@dataclass(frozen=True, eq=False)
class Solution:
    """An edit, and its facts' keys by layer: what a history is extended by."""

    edit: Edit
    keys: Keys


class ClosedForm(ABC):
    """An editor that solves for its weights; see `single` and `spread` for its two kinds.

    place: where the value of a fact is put in, see `value.search`. keeps_history: whether the keys of earlier edits
    count. one_fact: whether it takes one fact only. presets: the methods whose presets it takes, the first one there
    is; its own where none is named.
    """

    name: str
    place: ClassVar[Place]
    keeps_history: bool = False
    one_fact: ClassVar[bool] = False
    presets: tuple[str, ...] = ()

    @abstractmethod
    def published(self, model: LanguageModel, layer: int | None = None) -> Any:
        """The settings of `defaults`, before those that were measured for these very weights."""

    def default(self, model: LanguageModel, layer: int | None = None) -> Any:
        """See `Editor.default`; a preset that `tune` made for these weights comes first."""
        return tuned(model, self.presets or (self.name,), self.published(model, layer), layer)

    @abstractmethod
    def layers(self, config: Any) -> Sequence[int]:
        """The edited layers, upwards; the values belong to the last."""

    @abstractmethod
    def contexts(self, model: LanguageModel, config: Any) -> Contexts:
        """The contexts in which the facts are asked."""

    def check_model(self, model: LanguageModel) -> None:  # noqa: B027 - most methods edit any model
        """Raises EditError for a model that the method cannot edit."""

    @abstractmethod
    def changes(
        self, model: LanguageModel, targets: Targets, moments: Moments, config: Any, history: History, clock: Clock
    ) -> dict[int, Change]:
        """The layers' changes that bring all the values about; the model is afterwards bit for bit what it was."""

    def changes_each(
        self, model: LanguageModel, targets: Targets, moments: Moments, config: Any, clock: Clock
    ) -> list[dict[int, Change]]:
        """For each fact the changes that bring its value about alone."""
        return [self.changes(model, one, moments, config, {}, clock) for one in targets.each()]

    def fit(
        self,
        model: LanguageModel,
        facts: Sequence[Fact],
        moments: Moments,
        config: Any,
        progress: Progress | None = None,
        *,
        history: History | None = None,
    ) -> Edit:
        """The edit that makes each fact's `target_new` its answer; the model stays bit for bit what it was.

        history: of the edits made before, for methods that keep one.
        Raises EditError for facts, layers, moments or a history that do not fit the method or the model, a search that
        fails, a system that is singular and whatever the guard refuses; StatisticsError for a C that is; TargetError
        and PromptError for a fact that cannot be asked or needs no edit.
        """
        self.check(model, len(facts), moments, config, history)
        return self.solve(model, self.search(model, facts, config, progress), moments, config, history=history).edit

    def fit_each(
        self,
        model: LanguageModel,
        facts: Sequence[Fact],
        moments: Moments,
        config: Any,
        progress: Progress | None = None,
        *,
        contexts: Contexts | None = None,
        store: Store = "cache",
        memory: int = MEMORY,
    ) -> list[Edit]:
        """For each fact the edit that `fit` makes of it alone; the values are searched together.

        Facts whose targets are the answers already are edited like the rest. contexts, store, memory: see `search`.
        """
        self.check(model, 1, moments, config, None)
        if not facts:
            return []
        given: dict[str, Any] = {"contexts": contexts, "store": store, "memory": memory, "new_only": False}
        targets = self.search(model, facts, config, progress, **given)
        clock = Clock(targets.seconds)
        weights = model.weight_hash()
        clock.lap("hash")
        found = self.changes_each(model, targets, moments, config, clock)
        share = {phase: seconds / len(facts) for phase, seconds in clock.seconds.items()}
        return [
            self._edit(model, one, moments, config, changes, weights, share)
            for one, changes in zip(targets.each(), found, strict=True)
        ]

    def search(
        self,
        model: LanguageModel,
        facts: Sequence[Fact],
        config: Any,
        progress: Progress | None = None,
        *,
        contexts: Contexts | None = None,
        store: Store = "cache",
        memory: int = MEMORY,
        new_only: bool = True,
    ) -> Targets:
        """The values of facts on the model as it is: the part of `fit` that takes the time.

        contexts: None samples them from the model as it is. store: where values that were searched before are looked
        for and new ones are kept, None nowhere; memory, new_only: see `values.values`.
        """
        clock = Clock()
        contexts = self.contexts(model, config) if contexts is None else contexts
        clock.lap("contexts")
        layer = self.layers(config)[-1]
        given: dict[str, Any] = {"place": self.place, "store": store, "memory": memory, "new_only": new_only}
        found = values(model, facts, contexts, layer, config.value, steps=progress, **given)
        clock.lap("value")
        return Targets(tuple(facts), contexts, tuple(found), clock.seconds)

    def solve(
        self,
        model: LanguageModel,
        targets: Targets,
        moments: Moments,
        config: Any,
        *,
        history: History | None = None,
    ) -> Solution:
        """The edit that brings these values about on the model as it is; raises as `fit` does."""
        self.check(model, len(targets.facts), moments, config, history)
        clock = Clock(targets.seconds)
        weights = model.weight_hash()
        clock.lap("hash")
        changes = self.changes(model, targets, moments, config, history or {}, clock)
        edit = self._edit(model, targets, moments, config, changes, weights, clock.seconds)
        return Solution(edit, {layer: change.keys for layer, change in changes.items()})

    def _edit(
        self,
        model: LanguageModel,
        targets: Targets,
        moments: Moments,
        config: Any,
        changes: Mapping[int, Change],
        weights: str,
        seconds: Mapping[str, float],
    ) -> Edit:
        about = {layer: moments[layer].provenance for layer in changes}
        provenance = Provenance(
            method=self.name,
            config=asdict(config),
            facts=tuple(fact.to_dict() for fact in targets.facts),
            model=model.name,
            model_hash=weights,
            dtype=str(model.weight(next(iter(changes))).dtype).removeprefix("torch."),
            contexts=targets.contexts.hash,
            moments={str(layer): "unknown" if known is None else known.key for layer, known in about.items()},
            losses=tuple(value.losses for value in targets.values),
            stopped_early=all(value.stopped_early for value in targets.values),
            seconds=seconds,
            versions=versions(),
            solver={
                str(layer): {"residual": change.residual, "condition": change.condition}
                for layer, change in changes.items()
            },
        )
        return Edit({layer: change.edit for layer, change in changes.items()}, provenance)

    def check_facts(self, model: LanguageModel, facts: int) -> None:
        """Raises EditError for a number of facts that cannot be edited at once, or a model that cannot be edited."""
        if facts < 1 or (self.one_fact and facts > 1):
            at_once = "one fact at a time" if self.one_fact else "at least one fact"
            raise EditError(f"{self.name} rewrites {at_once}, not {facts}: make one edit a fact")
        self.check_model(model)

    def check(self, model: LanguageModel, facts: int, moments: Moments, config: Any, history: History | None) -> None:
        """Raises EditError for what `fit` refuses before any search: the number of facts, layers, moments, history."""
        self.check_facts(model, facts)
        layers = self.layers(config)
        if not layers or list(layers) != sorted(set(layers)):
            raise EditError(f"the edited layers must be named once each, upwards, not {list(layers)}")
        if history and not self.keeps_history:
            raise EditError(f"{self.name} keeps no history: use memit-history or alphaedit")
        for layer in layers:
            require_present(model, check_layer(model, layer))
            _check_width(model, layer, moments, history)


def _check_width(model: LanguageModel, layer: int, moments: Moments, history: History | None) -> None:
    width = model.architecture.d_mlp
    if layer not in moments:
        raise EditError(f"the second moments of layer {layer} are needed: collect them first")
    if moments[layer].d != width:
        raise EditError(
            f"the second moments of layer {layer} are of keys of {moments[layer].d} numbers, this model's have "
            f"{width}: collect them for this model"
        )
    if history and (layer not in history or history[layer].shape != (width, width)):
        raise EditError(f"the history lacks layer {layer}, or is not {width} × {width} there: it is of other edits")


def extended(history: History, keys: Keys) -> dict[int, Float64[Tensor, "d_mlp d_mlp"]]:
    """H + K Kᵀ for each of the keys' layers: the history after an edit. An empty one is that before the first."""
    grown = dict(history)
    for layer, rows in keys.items():
        exact = rows.double()
        grown[layer] = exact.T @ exact + history.get(layer, 0)
    return grown


def layer_edit(model: LanguageModel, layer: int, update: Update) -> LayerEdit:
    """An update as the change of a layer's present weight, in float32. Raises EditError where it does not fit that."""
    weight = model.weight(layer)
    left, right = update.left.float(), update.right.float()
    require_finite("the update in float32", left, right)
    return LayerEdit(
        path=model.architecture.path(layer, model.architecture.down_projection),
        left=left,
        right=right,
        weight_sha256=weight_sha256(weight),
        delta_norm=update.norm,
        weight_norm=float(weight.double().norm()),
        denominator=update.denominator,
        relative_denominator=update.relative_denominator,
    )


class Clock:
    """Seconds between laps, by name; laps of one name add up."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(seconds or {})
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the time since the last lap under this name."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now
