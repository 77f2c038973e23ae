"""What an edit did to the answers it is about: how likely the old and the new one are, before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, Literal

import numpy as np

from rome_engine.bench.nll import Answered, Asked, sound, target_nll
from rome_engine.edit.edit import Edit
from rome_engine.edit.targets import target_tokens
from rome_engine.errors import PromptError, TargetError
from rome_engine.facts import PLACE, Fact
from rome_engine.model.language_model import LanguageModel

Kind = Literal["prompt", "paraphrase", "neighbour"]
KINDS: tuple[Kind, ...] = ("prompt", "paraphrase", "neighbour")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Text:
    """One text and what the model made of it. before, after: of the new target and, where there is one, the old."""

    kind: Kind
    text: str
    before: Answered
    after: Answered


@dataclass(frozen=True)
class Effect:
    """An edit's effect on one fact. old: `target_true`, or the model's answer before; None where that is no text."""

    fact: Fact
    old: str | None
    texts: tuple[Text, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fact's own prompt as a JSON object; probabilities are geometric means over the target's tokens."""
        asked = self.texts[0]
        return {
            **{name: getattr(self.fact, name) for name in ("id", "subject")},
            "prompt": self.fact.text,
            "target": self.fact.target_new,
            "old_target": self.old,
            "before": _probabilities(asked.before),
            "after": _probabilities(asked.after),
        }


@dataclass(frozen=True)
class Asking:
    """Facts' texts asked on the model as it was before the edit."""

    facts: tuple[Fact, ...]
    olds: tuple[str | None, ...]
    texts: tuple[tuple[tuple[Kind, str], ...], ...]
    answers: tuple[tuple[Answered, ...], ...]

    def after(self, model: LanguageModel, edit: Edit, progress: Progress | None = None) -> list[Effect]:
        """The same with the edit, which is taken out again. Raises NotFiniteError where it broke the numbers."""
        with edit.applied(model):
            return self.now(model, progress)

    def now(self, model: LanguageModel, progress: Progress | None = None) -> list[Effect]:
        """The same on the model as it is now, with the edit in force. Raises NotFiniteError."""
        answers = _answers(model, self.facts, self.olds, self.texts, progress)
        found = zip(self.facts, self.olds, self.texts, self.answers, answers, strict=True)
        return [Effect(fact, old, _told(texts, first, then)) for fact, old, texts, first, then in found]


def unaskable(model: LanguageModel, facts: Sequence[Fact]) -> dict[int, str]:
    """Which facts, by place, this model's tokenizer or context cannot take, and why."""
    found = {}
    for place, fact in enumerate(facts):
        try:
            target_tokens(model, fact)
        except PromptError as error:
            found[place] = str(error)
    return found


def ask(model: LanguageModel, facts: Sequence[Fact], progress: Progress | None = None) -> Asking:
    """Ask every text of facts on the model as it is.

    Raises TargetError and PromptError for what cannot be asked, NotFiniteError for a model whose numbers are broken.
    """
    olds = tuple(_old(model, fact) for fact in facts)
    texts = tuple(_texts(fact) for fact in facts)
    return Asking(tuple(facts), olds, texts, _answers(model, facts, olds, texts, progress))


def summary(effects: Sequence[Effect]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Means over facts by kind of text, each kind a mean within a fact first, before and after.

    texts: how many. success: the new target likelier than the old one; for neighbours the reverse. argmax: every token
    of the new target (for neighbours: the old one) the likeliest. None where there is nothing to take the mean of.
    """
    return {kind: {when: _means(effects, kind, when) for when in ("before", "after")} for kind in KINDS}


def _means(effects: Sequence[Effect], kind: Kind, when: str) -> dict[str, float | int | None]:
    wanted = 1 if kind == "neighbour" else 0
    success, argmax, texts = [], [], 0
    for effect in effects:
        answers: list[Answered] = [getattr(text, when) for text in effect.texts if text.kind == kind]
        both = [answer for answer in answers if len(answer.nll) == 2]
        texts += len(answers)
        if both:
            success.append(np.mean([answer.nll[wanted] < answer.nll[1 - wanted] for answer in both]))
        if wanted == 0 and answers:
            argmax.append(np.mean([answer.argmax[0] for answer in answers]))
        elif both:
            argmax.append(np.mean([answer.argmax[1] for answer in both]))
    return {"texts": texts, "success": _mean(success), "argmax": _mean(argmax)}


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def _probabilities(answer: Answered) -> dict[str, Any]:
    found: dict[str, Any] = {"new": exp(-answer.nll[0]), "argmax": answer.argmax[0]}
    return {**found, "old": exp(-answer.nll[1])} if len(answer.nll) == 2 else found


def _told(texts: Sequence[tuple[Kind, str]], before: Sequence[Answered], after: Sequence[Answered]) -> tuple[Text, ...]:
    return tuple(Text(kind, text, first, then) for (kind, text), first, then in zip(texts, before, after, strict=True))


def _old(model: LanguageModel, fact: Fact) -> str | None:
    if fact.target_true is not None:
        return fact.target_true
    answer = int(model.next_token_logits(model.tokenize(fact.text)).argmax())
    text = model.text([answer]).strip()
    try:
        return text if model.target_ids(fact.text, text) else None
    except TargetError:
        return None


def _texts(fact: Fact) -> tuple[tuple[Kind, str], ...]:
    def placed(texts: Sequence[str]) -> list[str]:
        return [text.replace(PLACE, fact.subject) for text in texts]

    found: list[tuple[Kind, str]] = [("prompt", fact.text)]
    found += [("paraphrase", text) for text in placed(fact.paraphrases)]
    return (*found, *(("neighbour", text) for text in placed(fact.neighbourhood)))


def _answers(
    model: LanguageModel,
    facts: Sequence[Fact],
    olds: Sequence[str | None],
    texts: Sequence[Sequence[tuple[Kind, str]]],
    progress: Progress | None,
) -> tuple[tuple[Answered, ...], ...]:
    asked = []
    for fact, old, some in zip(facts, olds, texts, strict=True):
        targets = (fact.target_new or "", *([] if old is None else [old]))
        asked += [Asked(text, targets) for _, text in some]
    answers = iter(sound(target_nll(model, asked, progress=progress)))
    return tuple(tuple(next(answers) for _ in some) for some in texts)
