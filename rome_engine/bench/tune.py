"""Settings of an editing method by measurement: a sweep over layers, then over the settings that matter most.

The candidates are compared on one part of the facts, and the best of them is measured on another that took no part in
choosing it, beside controls: the default settings, other layers drawn at random, and the layer at a fixed depth. No
trace of where a fact is read chooses anything here: tracing says little about where an edit works (arXiv 2301.04213).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import isnan
from typing import Any

from rome_engine.bench.counterfact import Summary, summary
from rome_engine.bench.edits import Protocol, measure, require_editable
from rome_engine.edit.configuration import configured
from rome_engine.edit.defaults import DEPTH
from rome_engine.edit.editor import Editor
from rome_engine.edit.presets import LAYERS, NOT_TUNED
from rome_engine.errors import EditError, PromptError, StatisticsError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment

Grid = Mapping[str, Sequence[Any]]
Progress = Callable[[str, int, int], None]
RANDOM_LAYERS = 3


def default_grid(config: Any) -> dict[str, tuple[Any, ...]]:
    """The settings that matter most, around a method's present ones: how far a value may go, and what holds Δ back."""
    grid: dict[str, tuple[Any, ...]] = {}
    if hasattr(config, "bare"):
        grid["bare"] = tuple(dict.fromkeys((0.5, 0.7, None, config.bare)))
    if hasattr(config, "rank"):
        grid["rank"] = tuple(sorted({2, 8, 32, config.rank}))
    if hasattr(config, "value"):
        grid["value.clamp"] = tuple(sorted({0.75, 2.0, 4.0, config.value.clamp}))
    for name, factors in (("weight", (0.1, 0.3, 1.0, 3.0)), ("l2", (0.1, 1.0, 10.0)), ("ridge", (0.1, 1.0, 10.0))):
        if hasattr(config, name):
            grid[name] = tuple(getattr(config, name) * factor for factor in factors)
    if hasattr(config, "limit"):
        grid["limit"] = tuple(config.limit * factor for factor in (0.3, 1.0, 3.0))
    if hasattr(config, "tuning"):
        grid["tuning.learning_rate"] = tuple(config.tuning.learning_rate * factor for factor in (0.3, 1.0, 3.0))
    return grid


def default_layers(model: LanguageModel) -> list[int]:
    """Every second layer of the first two thirds but the very first ones."""
    return list(range(max(1, model.n_layers // 10), 2 * model.n_layers // 3, 2)) or [0]


@dataclass(frozen=True)
class Trial:
    """Settings that were tried. role: "layers", "settings", or a held-out one: "best", "default", "random", "depth".

    failed: why there are no scores, where the method refused.
    """

    role: str
    layer: int
    settings: Mapping[str, Any]
    scores: Summary | None
    failed: str | None = None

    @property
    def rank(self) -> float:
        """What trials are compared by: S, the harmonic mean of ES, PS and NS, with their magnitudes breaking ties."""
        if self.scores is None or isnan(self.scores.score):
            return -1.0
        means = self.scores.means
        return self.scores.score + 1e-3 * (means["em"] + means["pm"] + means["nm"])


@dataclass(frozen=True)
class Tuned:
    """The chosen settings, all trials on the tuning part, and the held-out ones."""

    method: str
    config: Any
    trials: tuple[Trial, ...]
    held_out: tuple[Trial, ...]
    n_tuning: int
    n_held_out: int

    @property
    def better(self) -> bool:
        """Whether the chosen settings beat the present ones on the facts held out."""
        rank = {trial.role: trial.rank for trial in self.held_out}
        return rank["best"] > rank["default"]

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "better": self.better}


def split(facts: Sequence[Fact], tuning: int, held_out: int, seed: int = 0) -> tuple[list[Fact], list[Fact]]:
    """A part to tune on and one to report on, drawn at random; no subject is in both, none twice in one.

    Only facts with both targets count. Raises EditError where there are too few.
    """
    usable = {fact.subject: fact for fact in facts if fact.target_new and fact.target_true}
    subjects = sorted(usable)
    if len(subjects) < tuning + held_out:
        raise EditError(
            f"there are {len(subjects)} subjects with target_new and target_true, not {tuning + held_out}: give more "
            "facts, or ask for fewer"
        )
    drawn = random.Random(seed).sample(subjects, tuning + held_out)
    return [usable[name] for name in drawn[:tuning]], [usable[name] for name in drawn[tuning:]]


def tune(
    model: LanguageModel,
    editor: Editor,
    tuning: Sequence[Fact],
    held_out: Sequence[Fact],
    moments: Mapping[int, SecondMoment],
    layers: Sequence[int],
    grid: Grid,
    *,
    protocol: Protocol | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    told: Callable[[Trial], None] | None = None,
) -> Tuned:
    """The best layer at the default settings, then the best of `grid` there, measured on facts that chose neither.

    layers: the (last) edited ones that are tried. grid: settings by their names, "value.clamp" for one within another.
    moments: of all layers that are touched. told(trial) is called after each trial.
    Raises EditError where every trial failed, and for layers that are kept on the disk.
    """
    runs = _Runs(model, editor, moments, protocol, progress, told)
    combinations = check_grid(model, editor, layers[0], grid)
    default, depth, every_drawn = editor.default(model), round(DEPTH * (model.n_layers - 1)), drawn_layers(model, seed)
    named = (editor.default(model, layer) for layer in (*layers, depth, *every_drawn))
    require_editable(model, editor, default, *named)
    by_layer = [runs.tried("layers", layer, {}, tuning) for layer in layers]
    best = _best(by_layer)
    by_setting = [runs.tried("settings", best.layer, settings, tuning) for settings in combinations]
    best = _best([best, *by_setting])
    drawn = [layer for layer in every_drawn if layer != best.layer][:RANDOM_LAYERS]
    reported = [
        runs.tried("best", best.layer, best.settings, held_out),
        runs.tried("default", _edited(default)[-1], {}, held_out),
        *(runs.tried("random", layer, best.settings, held_out) for layer in drawn),
        runs.tried("depth", depth, best.settings, held_out),
    ]
    return Tuned(
        editor.name,
        runs.config(best.layer, best.settings),
        (*by_layer, *by_setting),
        tuple(reported),
        len(tuning),
        len(held_out),
    )


@dataclass(frozen=True, eq=False)
class _Runs:
    """What all trials have in common."""

    model: LanguageModel
    editor: Editor
    moments: Mapping[int, SecondMoment]
    protocol: Protocol | None
    progress: Progress | None
    told: Callable[[Trial], None] | None

    def config(self, layer: int, settings: Mapping[str, Any]) -> Any:
        return _configured(self.model, self.editor, layer, settings)

    def tried(self, role: str, layer: int, settings: Mapping[str, Any], facts: Sequence[Fact]) -> Trial:
        config = self.config(layer, settings)
        try:
            cases = measure(
                self.model,
                self.editor,
                facts,
                self.moments,
                config,
                protocol=self.protocol,
                progress=self.progress,
            )
            trial = Trial(role, layer, dict(settings), summary(cases))
        except (EditError, StatisticsError, PromptError) as error:
            trial = Trial(role, layer, dict(settings), None, str(error))
        if self.told is not None:
            self.told(trial)
        return trial


def check_grid(model: LanguageModel, editor: Editor, layer: int, grid: Grid) -> list[dict[str, Any]]:
    """The settings that a grid stands for. Raises EditError for those that the method has not, or cannot have."""
    fixed = sorted(name for name in grid if name.partition(".")[0] in (*LAYERS, *NOT_TUNED))
    if fixed:
        raise EditError(f"{', '.join(fixed)} cannot be tuned as a setting: layers are named by themselves")
    combinations = [dict(zip(grid, chosen, strict=True)) for chosen in product(*grid.values())]
    for settings in combinations:
        _configured(model, editor, layer, settings)
    return combinations


def _configured(model: LanguageModel, editor: Editor, layer: int, settings: Mapping[str, Any]) -> Any:
    return configured(editor.default(model, layer), _nested(settings))


def _edited(config: Any) -> Sequence[int]:
    """The layers that these settings change."""
    layers: Sequence[int] = config.layers if hasattr(config, "layers") else (config.layer,)
    return layers


def drawn_layers(model: LanguageModel, seed: int = 0) -> list[int]:
    """Layers drawn at random from all, one more than there are controls: the chosen one is none."""
    return random.Random(seed).sample(range(model.n_layers), min(RANDOM_LAYERS + 1, model.n_layers))


def touched(model: LanguageModel, editor: Editor, layers: Sequence[int], seed: int = 0) -> list[int]:
    """The layers whose second moments `tune` needs for these (last) edited ones and its controls."""
    depth = round(DEPTH * (model.n_layers - 1))
    named = (*layers, depth, *drawn_layers(model, seed))
    configs = [editor.default(model), *(editor.default(model, layer) for layer in named)]
    return sorted({layer for config in configs for layer in editor.layers(config)})


def _best(trials: Sequence[Trial]) -> Trial:
    best = max(trials, key=lambda trial: trial.rank)
    if best.scores is None:
        raise EditError(f"no settings could be measured: {best.failed}")
    return best


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"value.clamp": 2} as {"value": {"clamp": 2}}."""
    record: dict[str, Any] = {}
    for name, value in settings.items():
        *outer, inner = name.split(".")
        place = record
        for part in outer:
            place = place.setdefault(part, {})
        place[inner] = value
    return record
