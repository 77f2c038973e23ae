"""The values of many facts: searched together, kept by content, found again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from rome_engine.edit.context import Contexts
from rome_engine.edit.grouping import MEMORY, groups
from rome_engine.edit.question import Batch, Question
from rome_engine.edit.targets import check_new, target_tokens
from rome_engine.edit.value import Place, Progress, Value, ValueConfig, lowest, search
from rome_engine.edit.value_store import ValueStore, content_key, in_cache
from rome_engine.errors import InUseError, NoRoomError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.versions import computed_by

log = logging.getLogger(__name__)

Told = Callable[[int, int], None]
Store = Path | Literal["cache"] | None


def values(
    model: LanguageModel,
    facts: Sequence[Fact],
    contexts: Contexts,
    layer: int,
    config: ValueConfig,
    *,
    place: Place = "mlp",
    progress: Told | None = None,
    steps: Progress | None = None,
    store: Store = "cache",
    memory: int = MEMORY,
    new_only: bool = True,
) -> list[Value]:
    """The value of each fact, in their order, to rounding as `value.search` finds it for one alone.

    progress(done, facts) is called after each fact; steps after each step, with the steps of all facts so far and in
    all, and the loss.
    store: the file in which finished values are kept, those of a batch as soon as all of it is done, and looked for
    first; "cache" is `values.sqlite` in the cache folder, and where that cannot be written a warning is logged; None
    keeps nothing. A batch of which some are missing is searched whole: a call that was killed and made again gives what
    one that was not gives, bit for bit.
    memory: bytes a batch may use, beside what one fact takes anyway. new_only: whether facts whose targets all are the
    model's answers already are refused; a benchmark edits them like the rest.

    Raises TargetError and PromptError for a fact that cannot be asked, has no target, or whose target is already the
    answer, before anything is searched; EditError for a search that fails, StorageError for a store that is damaged.
    """
    questions = [Question(model, fact, target_tokens(model, fact), contexts) for fact in facts]
    opened = in_cache() if store == "cache" else None if store is None else ValueStore(store)
    with opened or nullcontext() as kept:
        origin = f"{model.weight_hash()} {model.config_hash()} {computed_by(model.device)}" if kept else ""
        keys = [content_key(origin, question, layer, place, config) for question in questions]
        found = kept.find(keys) if kept else {}
        if kept:
            log.info("%d of %d values were found in %s", sum(key in found for key in keys), len(keys), kept.path)
        # Equal facts are searched once.
        distinct = {question: key for key, question in dict(zip(keys, questions, strict=True)).items()}
        # A value depends, to rounding, on those it is searched with: what is searched again is the group as it was.
        searched = [
            group
            for group in groups(list(distinct), lowest(layer, place), memory)
            if any(distinct[question] not in found for question in group)
        ]
        again = [question for group in searched for question in group]
        if new_only:
            there = len(distinct) - len(again)
            check_new(model, [question.fact for question in again], [question.target for question in again], there)
        times = Counter(keys)
        done = len(keys) - sum(times[distinct[question]] for question in again)
        for group in searched:
            counted = None if steps is None else _counted(steps, done, len(group), len(facts))
            made: dict[str, Value] = {}
            for question, value in search(Batch(group), layer, config, place=place, progress=counted):
                key = distinct[question]
                made[key] = value
                done += times[key]
                if progress is not None:
                    progress(done, len(facts))
            if kept:
                _keep(kept, made, needed=store != "cache")
            found |= made
    return [found[key] for key in keys]


def _counted(steps: Progress, done: int, now: int, facts: int) -> Progress:
    """Steps of a batch of `now` facts, told as steps of all."""
    return lambda step, of, loss: steps(done * of + step * now, facts * of, loss)


def _keep(kept: ValueStore, made: Mapping[str, Value], *, needed: bool) -> None:
    """Put down values; where the cache cannot hold them, and nobody asked for it, that must not stop an edit."""
    try:
        kept.keep(made)
    except (InUseError, NoRoomError) as error:
        if needed:
            raise
        log.warning("%s", error)
