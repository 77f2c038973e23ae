"""One fact rewritten in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rome_engine import stats
from rome_engine.edit.edit import Edit
from rome_engine.edit.methods import editor
from rome_engine.edit.targets import new_target
from rome_engine.edit.value import Progress
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import Corpus, SecondMoment


def edit_fact(
    model: LanguageModel,
    fact: Fact,
    *,
    method: str = "r-rome",
    layer: int | None = None,
    corpus: Corpus | None = None,
    moments: Mapping[int, SecondMoment] | None = None,
    config: Any = None,
    progress: Progress | None = None,
) -> Edit:
    """The edit that makes `fact.target_new` the answer; the model itself is left as it is.

    layer: None is the method's default for this model. config: the method's own in place of its default; it names its
    layer. moments: of the edited layers; None brings those that are shipped, cached, or collected from `corpus`.
    progress(step, steps, loss) is called by the value search.

    Raises EditError, TargetError, PromptError, StatisticsError.
    """
    chosen = editor(method)
    settings = chosen.default(model, layer) if config is None else config
    if moments is None:
        new_target(model, fact)  # what cannot be edited is said before minutes are spent on statistics
        moments = stats.moments(model, chosen.layers(settings), corpus=corpus)
    return chosen.fit(model, [fact], moments, settings, progress)
