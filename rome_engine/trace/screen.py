"""Screening all cells by gradients, and verifying the strongest and some of the others exactly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rome_engine.errors import TraceError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace.baseline import Baseline
from rome_engine.trace.gradients import check_metric, first_order
from rome_engine.trace.metrics import METRICS
from rome_engine.trace.plan import Cell, Direction, Patch, Plan, Progress, base_run
from rome_engine.trace.screened import Marks, Missed, Screen, ScreenedMap
from rome_engine.trace.settings import Settings
from rome_engine.trace.tracer import Tracer

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

KINDS = ("hidden", "mlp", "attn", "head", "pre")
"""The kinds that can be screened."""
DEFAULT = Settings(kinds=("hidden", "mlp", "attn", "head"), windows=(1,))
TOP, RANDOM = 50, 50
SHARE = 0.25


def screen(
    model: LanguageModel,
    prompt: str,
    subject: str,
    settings: Settings | None = None,
    *,
    answer: str | None = None,
    foil: str | None = None,
    top: int = TOP,
    random: int = RANDOM,
    metric: str = "log_probability",
    share: float = SHARE,
    progress: Progress | None = None,
) -> Screen:
    """Attribution patching of one prompt: all cells by one forward and one backward pass, the best of them exactly.

    prompt, subject, answer, foil: see `trace_maps`. The rest: see `screen_fact`, which this calls.

    Raises PromptError and its kinds, TraceError.
    """
    fact = Fact.of(prompt, subject, target_true=answer, foil=foil)
    return screen_fact(model, fact, settings, top=top, random=random, metric=metric, share=share, progress=progress)


def screen_fact(
    model: LanguageModel,
    fact: Fact,
    settings: Settings | None = None,
    *,
    top: int = TOP,
    random: int = RANDOM,
    metric: str = "log_probability",
    share: float = SHARE,
    progress: Progress | None = None,
) -> Screen:
    """The screen of one fact (Nanda 2023; Kramár et al. 2024, section 2, for the method and what it misses).

    settings: what is exchanged, of one corruption and the whole graph; without them every hidden state, MLP, attention
    and head, each alone. top: how many of the cells with the largest approximate effects are verified; random: how many
    of all others, drawn with the settings' seed. metric: one of gradients.SMOOTH. share: a cell matters where its exact
    effect has this share of the strongest one's size. progress(done, total) counts the verified cells.

    Raises PromptError and its kinds, TraceError.
    """
    settings = settings or DEFAULT
    check(settings, metric, fact.foil, top, random, share)
    began = time.perf_counter()
    tracer = Tracer(model, settings)
    (corruption,) = tracer.corruptions
    baseline = tracer.baseline(fact, corruption)
    plans = tracer.plans(baseline.prompt)
    cells = [cell for plan in plans for cell in plan.cells]
    way = cast(Direction, settings.direction)
    sign = 1.0 if settings.direction == "restore" else -1.0
    approximate = sign * _changes(cells, first_order(model, baseline, metric, way))
    best, drawn = choose(approximate, top, random, settings.seed)
    screened = time.perf_counter()
    verified = np.concatenate([best, drawn])
    found, engine = _verify(tracer, [cells[index] for index in verified], baseline, progress)
    column = METRICS.index(metric)
    own = float(baseline.scores[baseline.rows(base_run(way)), column].mean())
    exact = np.full(len(cells), np.nan)
    exact[verified] = sign * (found[:, :, column].mean(1) - own)
    chosen = np.full(len(cells), "", dtype="<U6")
    chosen[best], chosen[drawn] = "top", "random"
    return Screen(
        model=model.name,
        prompt=baseline.prompt.text,
        subject=fact.subject,
        tokens=baseline.prompt.tokens,
        subject_range=baseline.subject,
        answer=model.text(baseline.question.answer),
        foil=fact.foil,
        metric=metric,
        direction=settings.direction,
        corruption=str(corruption),
        samples=baseline.samples,
        seed=settings.seed,
        high=float(baseline.scores[0, column]),
        low=float(baseline.scores[1:, column].mean()),
        probabilities=(float(baseline.scores[0, 0]), float(baseline.scores[1:, 0].mean())),
        maps=_maps(plans, (len(baseline.prompt.input_ids), model.n_layers), approximate, exact, chosen),
        missed=Missed.of(exact[best], exact[drawn], len(cells) - len(best), share),
        engine=engine,
        seconds={"screen": screened - began, "verification": time.perf_counter() - screened},
        fact=fact.id,
        provenance={**tracer.provenance(corruption, baseline), "top": top, "random": random, "share": share},
    )


def check(
    settings: Settings, metric: str, foil: str | None, top: int = TOP, random: int = RANDOM, share: float = SHARE
) -> None:
    """Say before any work what cannot be screened. Raises TraceError."""
    settings = settings.resolved
    if wrong := [kind for kind in settings.kinds if kind not in KINDS]:
        raise TraceError(f"kind {wrong[0]} cannot be screened: choose {', '.join(KINDS)}, or trace it")
    if any(settings.severed):
        raise TraceError("a severed graph cannot be screened, gradients are those of the whole: leave severed out")
    if len(settings.corruptions) > 1:
        raise TraceError("a screen has one corruption: make one screen for each")
    if min(top, random) < 0 or top + random == 0:
        raise TraceError(f"a screen verifies at least one cell, not the top {top} and {random} others")
    if not 0 < share <= 1:
        raise TraceError(
            f"the share of the strongest effect from which a cell matters is above 0 and at most 1, not {share}"
        )
    check_metric(metric, foil)


def choose(approximate: Array, top: int, random: int, seed: int) -> tuple[Indices, Indices]:
    """The cells with the largest approximate effects in size, and some of the others, each as likely as the other."""
    order = np.argsort(-np.abs(approximate), kind="stable")
    rest = np.sort(order[top:])
    drawn = np.random.default_rng(seed).choice(rest, size=min(random, len(rest)), replace=False)
    return order[:top], np.sort(drawn)


def _changes(cells: Sequence[Cell], changes: dict[str, Tensor]) -> Array:
    """The change of each cell: the sum over what it exchanges, first-order where that is one state."""
    tables = {component: table.numpy() for component, table in changes.items()}

    def change(patch: Patch) -> float:
        if patch.layer < 0:
            return float(tables["pre"][patch.position, 0])
        at = (patch.position, patch.layer)
        return float(tables["head"][patch.head, *at] if patch.component == "head" else tables[patch.component][at])

    return np.array([sum(change(patch) for patch in cell.patches) for cell in cells])


def _verify(tracer: Tracer, cells: Sequence[Cell], baseline: Baseline, progress: Progress | None) -> tuple[Array, str]:
    """The exact metrics of these cells, (cells, samples, metrics), and the engine that gave them."""
    plan = Plan("chosen", 1, None, cast(Direction, tracer.settings.direction), "", tuple(cells))
    (found,), engine = tracer.run([plan], baseline, progress)
    return found, engine


def _maps(
    plans: Sequence[Plan], shape: tuple[int, int], approximate: Array, exact: Array, chosen: Marks
) -> tuple[ScreenedMap, ...]:
    """The cells in their places; maps of single heads are put together."""
    found: dict[tuple[str, int], list[tuple[Array, Array, Marks]]] = {}
    begin = 0
    for plan in plans:
        end = begin + len(plan.cells)
        at = tuple(np.array([(cell.token, cell.layer) for cell in plan.cells]).T)
        tables = (np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, "", dtype=chosen.dtype))
        for table, values in zip(tables, (approximate, exact, chosen), strict=True):
            table[at] = values[begin:end]
        found.setdefault((plan.kind, plan.window), []).append(tables)
        begin = end
    return tuple(
        ScreenedMap(kind, window, *(np.stack(one) if kind == "head" else one[0] for one in zip(*group, strict=True)))
        for (kind, window), group in found.items()
    )
