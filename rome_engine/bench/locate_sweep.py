"""Facts edited alone at one layer after the other, and scored under their own edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import exp
from typing import Any

import numpy as np

from rome_engine.bench.answering import MEMORY
from rome_engine.bench.asks import Generated
from rome_engine.bench.counterfact import score
from rome_engine.bench.edits import single_edits
from rome_engine.bench.generation import generate
from rome_engine.bench.locate_result import SCORES, Array, Left
from rome_engine.bench.metrics.free import TOKENS
from rome_engine.bench.metrics.normalise import begins
from rome_engine.bench.nll import Asked, Chosen, Progress, target_nll
from rome_engine.edit.edit import Edit
from rome_engine.edit.editor import Editor
from rome_engine.edit.per_row import per_row
from rome_engine.errors import BenchError, EditError, NotFiniteError, PromptError, PromptTooLongError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment

Told = Callable[[str, int, int], None]


def sweep(
    model: LanguageModel,
    editor: Editor,
    facts: Sequence[Fact],
    moments: Mapping[int, SecondMoment],
    layers: Sequence[int],
    progress: Told | None = None,
) -> tuple[dict[str, Array], tuple[Left, ...]]:
    """Of each fact edited alone at each layer (the last of several) its scores, (facts, layers), and what was refused.

    es, em, ps, ns: as in `counterfact`; em is the rewrite magnitude. rewrite: how far the new target's probability p
    comes of the way to 1, (p − p₀) / (1 − p₀), p₀ without the edit (Hase et al. 2023); p = e^−s, s its mean token NLL.
    free: whether greedy text behind the prompt begins with the new target. NaN where the method refused the edit or the
    edit broke the model's numbers, which is told, or where a fact has no such prompts. The facts of a layer are scored
    together on one copy of the model. Raises BenchError where every edit is refused.
    """
    before = _probabilities(model, facts)
    found = {name: np.full((len(facts), len(layers)), np.nan) for name in SCORES}
    refused: list[Left] = []
    for at, layer in enumerate(layers):
        told = None if progress is None else partial(_at_layer, progress, f"layer {layer} ({at + 1} of {len(layers)})")
        made = _edits(model, editor, facts, moments, editor.default(model, layer), told)
        edits = {place: one for place, one in enumerate(made) if isinstance(one, Edit)}
        refused += [
            Left(facts[place].id or facts[place].text, str(one), layer)
            for place, one in enumerate(made)
            if place not in edits
        ]
        scored = partial(_scored, model, facts, edits, before, told)
        for places, scores in _together_or_alone(scored, list(edits)):
            if isinstance(scores, NotFiniteError):
                refused += [Left(facts[place].id or facts[place].text, str(scores), layer) for place in places]
                continue
            for name, values in scores.items():
                found[name][places, at] = values
    if len(refused) == len(facts) * len(layers):
        raise BenchError(f"{editor.name} refused every edit, the first one because {refused[0].reason}")
    return found, tuple(refused)


def _at_layer(progress: Told, layer: str, what: str, done: int, total: int) -> None:
    progress(f"{what}, {layer}", done, total)


def _together_or_alone(
    scored: Callable[[list[int]], dict[str, Array]], places: list[int]
) -> Iterator[tuple[list[int], dict[str, Array] | NotFiniteError]]:
    """The scores of all places together; where numbers are broken, of each alone, and of which they are."""
    if not places:
        return
    try:
        yield places, scored(places)
    except NotFiniteError as error:
        if len(places) == 1:
            yield places, error
            return
        for place in places:
            yield from _together_or_alone(scored, [place])


def _scored(
    model: LanguageModel,
    facts: Sequence[Fact],
    edits: Mapping[int, Edit],
    before: Array,
    told: Told | None,
    places: list[int],
) -> dict[str, Array]:
    """The scores of the facts at these places, each under its own edit, (places,) each. Raises NotFiniteError."""
    some = [facts[place] for place in places]
    with per_row(model, [edits[place] for place in places]) as paths:
        cases = score(model, some, chosen=paths.choose, progress=None if told is None else partial(told, "scoring"))
        after = _probabilities(model, some, paths.choose)
        free = _said(model, some, paths.choose, None if told is None else partial(told, "generating"))
    found = {name: np.array([getattr(case, name) for case in cases]) for name in ("es", "em", "ps", "ns")}
    return {**found, "rewrite": (after - before[places]) / (1 - before[places]), "free": free}


def _said(model: LanguageModel, facts: Sequence[Fact], chosen: Chosen, progress: Progress | None) -> Array:
    """Whether greedy text behind each prompt begins with the new target, (facts,); NaN where it has no room."""
    found = np.full(len(facts), np.nan)
    asks = []
    for owner, fact in enumerate(facts):
        with suppress(PromptTooLongError):
            model.check_length(model.tokenize(fact.text), TOKENS)
            asks.append((owner, Generated(fact.text, TOKENS)))
    for (owner, _), text in zip(asks, generate(model, asks, MEMORY, chosen=chosen, progress=progress), strict=True):
        found[owner] = begins(text.text, [facts[owner].target_new or ""])
    return found


def _edits(
    model: LanguageModel,
    editor: Editor,
    facts: Sequence[Fact],
    moments: Mapping[int, SecondMoment],
    config: Any,
    told: Told | None,
) -> list[Edit | Exception]:
    """Each fact's edit, or why there is none: together as long as none is refused, else one by one."""
    try:
        return list(single_edits(model, editor, facts, moments, config, told))
    except (EditError, PromptError):
        found: list[Edit | Exception] = []
        for fact in facts:  # their values are searched, and kept
            try:
                found += single_edits(model, editor, [fact], moments, config, told)
            except (EditError, PromptError) as error:
                found.append(error)
        return found


def _probabilities(model: LanguageModel, facts: Sequence[Fact], chosen: Chosen | None = None) -> Array:
    """Of each fact's new target, a geometric mean over its tokens, (facts,)."""
    asked = [Asked(fact.text, (fact.target_new or "",), owner) for owner, fact in enumerate(facts)]
    return np.array([exp(-answer.nll[0]) for answer in target_nll(model, asked, chosen=chosen)])
