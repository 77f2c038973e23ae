"""Locate → edit: facts traced, then edited at one layer after the other, and what the one says of the other.

Hase et al. 2023 (arXiv 2301.04213) found that tracing explains next to nothing of where an edit works; this measures it
for a model and a method at hand.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import cast

import numpy as np

from rome_engine.bench.edits import require_editable
from rome_engine.bench.locate_controls import controls
from rome_engine.bench.locate_relation import relations
from rome_engine.bench.locate_result import SCORES, Array, Left, LocateEdit, Tracing
from rome_engine.bench.locate_sweep import sweep
from rome_engine.edit.defaults import DEPTH
from rome_engine.edit.editor import Editor
from rome_engine.errors import BenchError, RomeEngineError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import BosPolicy
from rome_engine.stats import SecondMoment
from rome_engine.trace import known
from rome_engine.trace.average import SMALL_EFFECT
from rome_engine.trace.settings import Settings
from rome_engine.trace.tracer import Tracer
from rome_engine.versions import versions

Told = Callable[[str, int, int], None]
"""Told (what is done, how much of it, of how much)."""

MOST_LAYERS = 10
LEAST_FACTS = 3
"""Fewer give no correlation that could not be ±1."""


def default_layers(model: LanguageModel) -> list[int]:
    """At most MOST_LAYERS layers, evenly over the model without its last, where an edit reaches no later token."""
    count = max(1, model.n_layers - 1)
    return list(range(0, count, -(-count // MOST_LAYERS)))


def fixed_depth(model: LanguageModel) -> int:
    """The layer that is edited where nothing is known of a model."""
    return round(DEPTH * (model.n_layers - 1))


def swept(model: LanguageModel, layers: Sequence[int]) -> list[int]:
    """These layers and the one at the fixed depth, upwards. Raises BenchError for one that the model has not."""
    if wrong := [layer for layer in layers if not 0 <= layer < model.n_layers]:
        raise BenchError(f"{model.name} has layers 0 to {model.n_layers - 1}, not {wrong[0]}")
    return sorted({*layers, fixed_depth(model)})


def touched(model: LanguageModel, editor: Editor, layers: Sequence[int]) -> list[int]:
    """The layers whose second moments editing at each of these takes."""
    return sorted({layer for last in layers for layer in editor.layers(editor.default(model, last))})


def locate_edit(
    model: LanguageModel,
    editor: Editor,
    facts: Sequence[Fact],
    moments: Mapping[int, SecondMoment],
    layers: Sequence[int],
    *,
    limit: int | None = None,
    window: int = 10,
    samples: int = 10,
    threshold: float = SMALL_EFFECT,
    score: str = "rewrite",
    seed: int = 0,
    source: str = "",
    progress: Told | None = None,
) -> LocateEdit:
    """Trace facts at their last subject token, edit each alone at every layer, and relate the two.

    Of the facts that have both targets and are answered right, at most `limit` are drawn by the seed; those whose total
    effect in probability is under `threshold`, too small to localise, are left out. Maps: MLPs in windows of `window`
    layers, and hidden states, under Gaussian noise (`samples` draws). layers: that are edited (the last of several),
    see `swept`; moments: of `touched`. score: by which layers are chosen and told of first, one of SCORES. source: the
    facts' name.
    The model is afterwards bit for bit what it was.
    Raises BenchError for less than two layers, for another score and where fewer than three facts are left;
    StatisticsError and EditError as the method does.
    """
    layers = swept(model, layers)
    if score not in SCORES:
        raise BenchError(f"there is no score {score!r}: choose {', '.join(SCORES)}")
    if len(layers) < 2:
        raise BenchError("a sweep needs at least two layers: name more")
    require_editable(model, editor, *(editor.default(model, layer) for layer in layers))
    settings = Settings(
        kinds=("mlp", "hidden"), windows=(window,), samples=samples, seed=seed, positions="last-subject"
    )
    chosen, left = _known(model, facts, settings, limit, seed, progress)
    tracer = Tracer(model, settings)
    chosen, tracing, small = _traced(tracer, chosen, threshold, progress)
    if len(chosen) < LEAST_FACTS:
        raise BenchError(
            f"{len(chosen)} of {len(facts)} facts can be traced and edited, and {LEAST_FACTS} are needed: "
            f"{_reasons([*left, *small])}"
        )
    scores, refused = sweep(model, editor, chosen, moments, layers, progress)
    return LocateEdit(
        model=model.name,
        method=editor.name,
        source=source,
        facts=tuple(chosen),
        given=len(facts),
        left=(*left, *small),
        n_layers=model.n_layers,
        layers=tuple(layers),
        depth=fixed_depth(model),
        score=score,
        tracing=tracing,
        scores=scores,
        refused=refused,
        relations=relations(tracing, layers, scores, seed),
        controls=controls(tracing, layers, scores, score, fixed_depth(model), seed),
        seed=seed,
        provenance={
            "weights": model.weight_hash(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(model.device),
            "settings": {str(layer): asdict(editor.default(model, layer)) for layer in layers},
            "second moments": {str(layer): _key(moments[layer]) for layer in touched(model, editor, layers)},
            "tracing": {**asdict(settings), "threshold": threshold},
            **versions(),
        },
    )


def _known(
    model: LanguageModel,
    facts: Sequence[Fact],
    settings: Settings,
    limit: int | None,
    seed: int,
    progress: Told | None,
) -> tuple[list[Fact], list[Left]]:
    """Facts with both targets that the model answers right, in drawn order, and those that are left out."""
    usable, left = [], []
    for fact in facts:
        if fact.target_new and fact.target_true:
            usable.append(fact)
        else:
            left.append(Left(_name(fact), "it lacks target_new or target_true"))
    tick = None if progress is None else (lambda done, total: progress("asking", done, total))
    verdicts = known.ask(model, usable, cast(BosPolicy, settings.bos), tick)
    asked = list(zip(usable, verdicts, strict=True))
    left += [Left(_name(fact), verdict.reason) for fact, verdict in asked if verdict.status != "known"]
    found = [fact for fact, verdict in asked if verdict.status == "known"]
    random.Random(seed).shuffle(found)
    return found[:limit], left


def _traced(
    tracer: Tracer, facts: Sequence[Fact], threshold: float, progress: Told | None
) -> tuple[list[Fact], tuple[Tracing, ...], list[Left]]:
    """The facts whose total effect can be localised, their curves, and the other facts."""
    chosen: list[Fact] = []
    left: list[Left] = []
    curves: list[list[Array]] = []
    totals: list[float] = []
    labels: list[tuple[str, int]] = []
    for done, fact in enumerate(facts):
        if progress is not None:
            progress("tracing", done, len(facts))
        try:
            traces = tracer.maps(replace(fact, foil=None))
        except RomeEngineError as error:
            left.append(Left(_name(fact), str(error)))
            continue
        total = traces[0].total_effect
        if not total >= threshold:
            reason = f"its total effect {total:.3g} is under {threshold:g}: too small to localise"
            left.append(Left(_name(fact), reason))
            continue
        labels = [(one.kind, one.window) for one in traces]
        chosen.append(fact)
        totals.append(total)
        curves.append([one.indirect_effect[one.subject_range[1] - 1] for one in traces])
    if progress is not None:
        progress("tracing", len(facts), len(facts))
    stacked = np.array(curves)  # (facts, maps, layers)
    tracing = tuple(Tracing(kind, window, stacked[:, at], np.array(totals)) for at, (kind, window) in enumerate(labels))
    return chosen, tracing, left


def _name(fact: Fact) -> str:
    return fact.id or fact.text


def _key(moment: SecondMoment) -> str | None:
    return None if moment.provenance is None else moment.provenance.key


def _reasons(left: Sequence[Left]) -> str:
    return "; ".join(f"{one.fact}: {one.reason}" for one in left[:3]) or "give more facts, or a greater limit"
