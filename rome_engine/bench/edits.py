"""An editing method measured on facts: edited one at a time, or all at once, and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rome_engine.bench.counterfact import CaseScores, score
from rome_engine.edit.closed_form import ClosedForm
from rome_engine.edit.edit import Edit
from rome_engine.edit.editor import Editor, check_layer
from rome_engine.edit.stack import require_present
from rome_engine.edit.trained import Trained
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment

Protocol = Literal["single", "batch"]
Told = Callable[[str, int, int], None]


def protocol_of(editor: Editor) -> Protocol:
    """How a method is measured where nobody says: one fact at a time where it takes no more."""
    return "single" if getattr(editor, "one_fact", False) else "batch"


def measure(
    model: LanguageModel,
    editor: Editor,
    facts: Sequence[Fact],
    moments: Mapping[int, SecondMoment],
    config: Any,
    *,
    protocol: Protocol | None = None,
    progress: Told | None = None,
) -> list[CaseScores]:
    """Each fact's scores under its edit: "single" edits each on the untouched model, "batch" all of them at once.

    The model is afterwards bit for bit what it was. progress(phase, done, total) is called as work goes on.
    Raises as `Editor.fit` and `counterfact.score` do.
    """
    if (protocol or protocol_of(editor)) == "batch":
        edit = editor.fit(model, facts, moments, config, _steps(progress))
        with edit.applied(model):
            return score(model, facts, progress=None if progress is None else lambda *at: progress("scoring", *at))
    found: list[CaseScores] = []
    for fact, edit in zip(facts, single_edits(model, editor, facts, moments, config, progress), strict=True):
        with edit.applied(model):
            found += score(model, [fact])
        if progress is not None:
            progress("scoring", len(found), len(facts))
    return found


def single_edits(
    model: LanguageModel,
    editor: Editor,
    facts: Sequence[Fact],
    moments: Mapping[int, SecondMoment],
    config: Any,
    progress: Told | None = None,
) -> list[Edit]:
    """An edit for each fact alone; closed-form methods search their values together."""
    if isinstance(editor, ClosedForm):
        return editor.fit_each(model, facts, moments, config, _steps(progress))
    if isinstance(editor, Trained):
        return [editor.fit_whatever(model, [fact], config, _steps(progress)) for fact in facts]
    return [editor.fit(model, [fact], moments, config, _steps(progress)) for fact in facts]


def _steps(progress: Told | None) -> Callable[[int, int, float], None] | None:
    return None if progress is None else lambda step, steps, _loss: progress("editing", step, steps)


def require_editable(model: LanguageModel, editor: Editor, *configs: Any) -> None:
    """Raises EditError where one of the layers that these settings edit is not there, or is kept on the disk."""
    for config in configs:
        for layer in editor.edited(config) if isinstance(editor, Trained) else editor.layers(config):
            require_present(model, check_layer(model, layer))
