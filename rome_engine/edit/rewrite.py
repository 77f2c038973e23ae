"""Facts rewritten in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rome_engine import stats
from rome_engine.edit.closed_form import ClosedForm
from rome_engine.edit.edit import Edit
from rome_engine.edit.editor import Editor
from rome_engine.edit.methods import editor
from rome_engine.edit.targets import check_new, target_tokens
from rome_engine.edit.value import Progress
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import Corpus, SecondMoment


def edit_fact(model: LanguageModel, fact: Fact, *, method: str = "r-rome", **others: Any) -> Edit:
    """The edit that makes `fact.target_new` the answer; the model itself is left as it is. See `edit_facts`."""
    return edit_facts(model, [fact], method=method, **others)


def edit_facts(
    model: LanguageModel,
    facts: Sequence[Fact],
    *,
    method: str = "memit",
    layer: int | None = None,
    corpus: Corpus | None = None,
    moments: Mapping[int, SecondMoment] | None = None,
    config: Any = None,
    progress: Progress | None = None,
) -> Edit:
    """One edit that makes each fact's `target_new` its answer; the model itself is left as it is.

    layer: the (last) edited one; None is the method's default for this model. config: the method's own in place of its
    default; it names its layers. moments: of the edited layers; None brings those that are shipped, cached, or
    collected from `corpus`. progress(step, steps, loss) is called by the value search.
    The guard looks at the update's own numbers; what it does to the rest of the model is measured where it is applied
    by `health.apply_guarded`, as the commands do.

    Raises EditError, TargetError, PromptError, StatisticsError.
    """
    chosen = editor(method)
    settings = chosen.default(model, layer) if config is None else config
    if moments is None:
        # What cannot be edited is said before minutes are spent on statistics.
        check_editable(model, chosen, len(facts))
        check_new(model, facts, [target_tokens(model, fact) for fact in facts])
        layers = chosen.layers(settings)
        moments = stats.moments(model, layers, corpus=corpus) if layers else {}
    return chosen.fit(model, facts, moments, settings, progress)


def check_editable(model: LanguageModel, editor: Editor, facts: int) -> None:
    """Raises EditError where this method cannot edit this model, or not so many facts at once."""
    if isinstance(editor, ClosedForm):  # those that train take any
        editor.check_facts(model, facts)
