"""Tracing the facts of a file that the model answers right, one by one, into a run that can be gone on with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from rome_engine.errors import TraceError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import BosPolicy
from rome_engine.trace import bootstrap, known
from rome_engine.trace.average import SMALL_EFFECT, Average
from rome_engine.trace.averaging import average, check
from rome_engine.trace.factfile import FactFile
from rome_engine.trace.known import AnswerTokens
from rome_engine.trace.per_fact import FactMaps
from rome_engine.trace.plan import Progress
from rome_engine.trace.settings import Settings
from rome_engine.trace.store import RunStore
from rome_engine.trace.tracer import Tracer
from rome_engine.versions import versions

log = logging.getLogger(__name__)

Watch = Callable[[str], Progress]
"""Told what begins ("asking" the model which facts it knows, then "tracing" them); gives whom to tell how far it is."""

Numbered = tuple[int, Fact]
"""A fact, and the number of its record in the file."""


@dataclass(frozen=True, eq=False)
class Traced:
    """What became of a fact: its maps, or None and the reason why there are none; seconds: the time that it took."""

    record: int
    maps: FactMaps | None
    reason: str
    seconds: float


Spread = Callable[[Settings, AnswerTokens, Iterable[Numbered]], Generator[Traced, None, None]]
"""Gives what became of each fact when it is there, in whatever order: where facts are traced elsewhere."""


def trace_facts(
    model: LanguageModel,
    facts: FactFile,
    settings: Settings,
    run: str | Path,
    *,
    answer_tokens: AnswerTokens | None = None,
    limit: int | None = None,
    metric: str = "probability",
    threshold: float = SMALL_EFFECT,
    include_small: bool = False,
    resamples: int = bootstrap.RESAMPLES,
    spread: Spread | None = None,
    watch: Watch | None = None,
) -> Average:
    """The averages over the facts that the model answers right, of which at most the first `limit` are traced.

    answer_tokens: what is asked for and scored, "all" tokens of the right answer (teacher-forced) or the "first" alone;
    by default all, and the first under a preset, as the original did. run: the file that keeps each fact when it is
    finished. The same call again goes on where an earlier one ended, however that was, and gives the numbers of one
    that was never interrupted; limit, metric, threshold and the bootstrap choose from what the file holds and may be
    changed. A fact whose trace raises an error is counted, and tried again the next time. settings.seed is the
    bootstrap's seed too. spread: where facts are traced (`trace.spreading`); here, where left out.

    Raises TraceError where no fact enters, for all answer tokens under a preset, and as RunStore does.
    """
    check(metric, threshold, resamples)
    tracer = Tracer(model, settings)
    counting = _counting(settings, answer_tokens)
    given = configuration(model, facts, settings, counting)
    with RunStore(Path(run), given) as store:
        if not store.filtered:
            _filter(tracer, facts, counting, store, None if watch is None else watch("asking"))
        tracing = None if watch is None else watch("tracing")
        _trace(tracer, dict(facts.facts), counting, store, limit, spread, tracing)
        return average(
            store.traced(limit),
            store.counts(limit),
            metric=metric,
            threshold=threshold,
            include_small=include_small,
            resamples=resamples,
            seed=settings.seed,
            left=store.left(limit),
            model=model.name,
            source=facts.name,
            samples=settings.samples,
            seconds=store.seconds(limit),
            provenance=given,
        )


def configuration(
    model: LanguageModel, facts: FactFile, settings: Settings, answer_tokens: AnswerTokens | None = None
) -> dict[str, Any]:
    """All that the numbers of a run depend on, by name: what may not change while it is gone on with.

    The number of threads is among it, because sums are rounded otherwise with another one.
    """
    return {
        **asked(facts, settings, answer_tokens),
        "weights": model.weight_hash(),
        "config": model.config_hash(),
        "tokenizer": model.tokenizer_hash(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }


def asked(facts: FactFile, settings: Settings, answer_tokens: AnswerTokens | None = None) -> dict[str, Any]:
    """The part of the configuration that can be told without the model. Raises TraceError for what does not fit."""
    return {
        "facts": facts.sha256,
        "answer_tokens": _counting(settings, answer_tokens),
        **asdict(settings),
        **versions(),
        "threads": torch.get_num_threads(),
    }


def _counting(settings: Settings, answer_tokens: AnswerTokens | None) -> AnswerTokens:
    """The answer tokens that count."""
    if settings.preset is None:
        return answer_tokens or "all"
    if answer_tokens == "all":
        raise TraceError(f"the preset {settings.preset} scores an answer's first token: leave answer_tokens out")
    return "first"


def _filter(
    tracer: Tracer, facts: FactFile, answer_tokens: AnswerTokens, store: RunStore, progress: Progress | None
) -> None:
    """Put down which facts the model answers right."""
    bos = cast(BosPolicy, tracer.settings.bos)
    verdicts = known.ask(tracer.model, [fact for _, fact in facts.facts], bos, progress, answer_tokens=answer_tokens)
    statuses: list[tuple[int, str | None, str, str]] = [
        (number, fact.id, verdict.status, verdict.reason)
        for (number, fact), verdict in zip(facts.facts, verdicts, strict=True)
    ]
    statuses += [(one.number, None, "malformed", one.reason) for one in facts.malformed]
    store.keep_statuses(sorted(statuses))


def _foil(model: LanguageModel, fact: Fact) -> str | None:
    """What the answer's logit is compared with: the fact's foil or its false target, unless it begins as the answer."""
    foil = fact.foil or fact.target_new
    if foil is None or fact.target_true is None:
        return foil
    first = model.target_ids(fact.text, foil)[0]
    return None if first == model.target_ids(fact.text, fact.target_true)[0] else foil


def _trace(
    tracer: Tracer,
    facts: dict[int, Fact],
    answer_tokens: AnswerTokens,
    store: RunStore,
    limit: int | None,
    spread: Spread | None,
    progress: Progress | None,
) -> None:
    """Trace what is open, in the file's order, and put each fact down when it is there."""
    pieces = [(record, facts[record]) for record in store.open(limit)]
    total = len(store.answered(limit))
    done = total - len(pieces)
    if progress is not None:
        progress(done, total)
    if not pieces:
        return
    here = (trace_fact(tracer, answer_tokens, piece) for piece in pieces)
    with closing(here if spread is None else spread(tracer.given, answer_tokens, pieces)) as traced:
        for one in traced:
            if one.maps is None:
                store.fail(one.record, one.reason, one.seconds)
            else:
                store.finish(one.record, one.maps, one.seconds)
            done += 1
            if progress is not None:
                progress(done, total)


def trace_fact(tracer: Tracer, answer_tokens: AnswerTokens, piece: Numbered) -> Traced:
    """Trace one fact; what goes wrong with it is a reason, and no error."""
    record, given = piece
    began = time.perf_counter()
    try:
        fact = replace(given, foil=_foil(tracer.model, given))
        if answer_tokens == "first":  # without a target_true the model's own next token is scored: it is that one
            fact = replace(fact, target_true=None)
        maps = FactMaps.of(tracer.maps(fact))
    except Exception as error:  # of whichever kind: the other facts are worth having
        log.debug("record %d failed", record, exc_info=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        return Traced(record, None, reason, time.perf_counter() - began)
    return Traced(record, maps, "", time.perf_counter() - began)
