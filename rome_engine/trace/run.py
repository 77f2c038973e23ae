"""Tracing one prompt."""

from __future__ import annotations

from typing import Any

from rome_engine.errors import TraceError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace.plan import Progress
from rome_engine.trace.result import Trace
from rome_engine.trace.settings import Settings
from rome_engine.trace.tracer import Tracer


def trace(
    model: LanguageModel,
    prompt: str,
    subject: str,
    *,
    kind: str = "hidden",
    window: int = 10,
    noise: str | float = "gaussian:3s",
    answer: str | None = None,
    foil: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Trace:
    """Causal trace of one prompt: which exchanged states bring the answer back (Meng et al. 2022, section 2.1).

    One map of `trace_maps`, which says what prompt, subject, answer and foil are. kind, window, noise: see Settings,
    of which `options` are the other fields.

    Raises PromptError and its kinds, TraceError.
    """
    if kind == "head":
        raise TraceError("kind head gives a map a head: use trace_maps")
    settings = Settings(kinds=(kind,), windows=(window,), corruptions=(noise,), **options)
    return trace_maps(model, prompt, subject, settings, answer=answer, foil=foil, progress=progress)[0]


def trace_maps(
    model: LanguageModel,
    prompt: str,
    subject: str,
    settings: Settings | None = None,
    *,
    answer: str | None = None,
    foil: str | None = None,
    progress: Progress | None = None,
) -> list[Trace]:
    """All maps that the settings ask for; those of one corruption share one clean and one corrupted run.

    prompt: plain text holding the subject once, or a template with `{}` in its place. answer: what is scored, of any
    number of tokens; by default the model's most probable next token. foil: a wrong answer, whose first token's logit
    is subtracted in the metric logit_difference. progress(done, total) is called with numbers of cells.
    The order is: corruptions, then severed graphs, then kinds, then windows or heads.

    Raises PromptError and its kinds, TraceError.
    """
    fact = Fact.of(prompt, subject, target_true=answer, foil=foil)
    return Tracer(model, settings or Settings()).maps(fact, progress)
