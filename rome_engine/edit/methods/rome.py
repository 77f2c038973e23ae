"""ROME and R-ROME: one fact, one layer, a rank-one update of the down-projection.

Sources: Meng et al. 2022 (arXiv 2202.05262), section 3.1; Gupta et al. 2024 (arXiv 2403.07175), section 4.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from rome_engine.edit.context import ROME_LENGTHS, sample
from rome_engine.edit.defaults import rome_default
from rome_engine.edit.edit import Edit, LayerEdit, weight_sha256
from rome_engine.edit.editor import check_layer
from rome_engine.edit.guard import Guard, require_finite
from rome_engine.edit.provenance import Provenance
from rome_engine.edit.solve import Update, rank_one
from rome_engine.edit.stack import require_present
from rome_engine.edit.targets import new_target
from rome_engine.edit.value import Progress, Question, Value, ValueConfig, search
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment
from rome_engine.versions import versions


@dataclass(frozen=True)
class RomeConfig:
    """Settings of ROME and R-ROME.

    layer: the edited one. value: of the value search. lengths, top_k, seed: of the sampled contexts, see
    `context.sample`. guard: limits on the update.
    """

    layer: int
    value: ValueConfig = field(default_factory=ValueConfig)
    lengths: tuple[int, ...] = ROME_LENGTHS
    top_k: int = 5
    seed: int = 0
    guard: Guard = field(default_factory=Guard)


@dataclass(frozen=True)
class Rome:
    """The editor; `mean_key` tells R-ROME (the mean key k̄ in every place) from ROME (k₀ where the update is pinned)."""

    name: str
    mean_key: bool

    def default(self, model: LanguageModel, layer: int | None = None) -> RomeConfig:
        """The published or measured settings for a model, at this layer where one is named. Raises EditError."""
        known = rome_default(model.architecture)
        return RomeConfig(check_layer(model, known.layer if layer is None else layer), known.value)

    def layers(self, config: RomeConfig) -> Sequence[int]:
        """The layers whose second moments `fit` needs."""
        return (config.layer,)

    def fit(
        self,
        model: LanguageModel,
        facts: Sequence[Fact],
        moments: Mapping[int, SecondMoment],
        config: RomeConfig,
        progress: Progress | None = None,
    ) -> Edit:
        """The edit of one fact; the model is only read.

        Raises EditError for more or less than one fact, a layer out of range, missing moments, a search that fails and
        whatever the guard refuses; TargetError and PromptError for a fact that cannot be asked or needs no edit.
        """
        layer = check_layer(model, config.layer)
        require_present(model, layer)
        if len(facts) != 1:
            raise EditError(f"{self.name} rewrites one fact at a time, not {len(facts)}: make one edit a fact")
        if layer not in moments:
            raise EditError(f"{self.name} needs the second moments of layer {layer}: collect them first")
        clock = _Clock()
        fact = facts[0]
        target = new_target(model, fact)
        contexts = sample(model, lengths=config.lengths, top_k=config.top_k, seed=config.seed)
        clock.lap("contexts")
        question = Question(model, fact, target, contexts)
        captured = question.rows.capture([layer])[layer]
        clock.lap("keys")
        value = search(question, layer, captured, config.value, progress=progress)
        clock.lap("value")
        update = self._update(
            captured.keys[: question.n_contexts], captured.values[: question.n_contexts], value, moments[layer]
        )
        config.guard.denominator(layer, update.relative_denominator)
        config.guard.reach(layer, float(update.right[:, 0] @ captured.keys[0].to(update.right)) / update.denominator)
        change = _change(model, layer, update)
        config.guard.norms(layer, change.delta_norm, change.weight_norm)
        clock.lap("solve")
        model_hash = model.weight_hash()
        clock.lap("hash")
        about = moments[layer].provenance
        provenance = Provenance(
            method=self.name,
            config=asdict(config),
            facts=(fact.to_dict(),),
            model=model.name,
            model_hash=model_hash,
            dtype=str(model.weight(layer).dtype).removeprefix("torch."),
            contexts=contexts.hash,
            moments={str(layer): about.key if about is not None else "unknown"},
            losses=(value.losses,),
            stopped_early=value.stopped_early,
            seconds=clock.seconds,
            versions=versions(),
        )
        return Edit({layer: change}, provenance)

    def _update(self, keys: Tensor, values: Tensor, value: Value, moments: SecondMoment) -> Update:
        mean = keys.double().mean(0)
        # By linearity the mean of the values is what W (and its bias) makes of the mean key.
        key, current = (mean, values.double().mean(0)) if self.mean_key else (keys[0], values[0])
        direction = moments.solve(mean).to(mean.device)
        update = rank_one(value.target, current, key, mean, direction)
        require_finite("the update", update.left, update.right)
        return update


def _change(model: LanguageModel, layer: int, update: Update) -> LayerEdit:
    weight = model.weight(layer)
    # Both factors of about the same size: neither leaves the range of float32.
    sizes = update.left.norm(), update.right.norm()
    balance = (sizes[1] / sizes[0]).sqrt() if bool(sizes[0] > 0) else torch.ones_like(sizes[0])
    left, right = (update.left * balance).float().cpu(), (update.right / balance).float().cpu()
    require_finite("the update in float32", left, right)
    return LayerEdit(
        path=model.architecture.path(layer, model.architecture.down_projection),
        left=left,
        right=right,
        weight_sha256=weight_sha256(weight),
        delta_norm=float(update.left.norm() * update.right.norm()),
        weight_norm=float(weight.double().norm()),
        denominator=update.denominator,
        relative_denominator=update.relative_denominator,
    )


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


EDITORS = (Rome("rome", mean_key=False), Rome("r-rome", mean_key=True))
