"""What an edit does to the model as a whole: perplexity of held-out text, and which known answers are lost."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from rome_engine.edit.edit import Edit
from rome_engine.edit.stack import Handle, Stack
from rome_engine.errors import EditError, PromptError
from rome_engine.fact_files import read_facts
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import Prompt
from rome_engine.resources import data_file

log = logging.getLogger(__name__)

FACTS = 32
WINDOW = 512
"""Tokens of held-out text that are read at once."""

Policy = Literal["warn", "refuse", "rollback"]


@dataclass(frozen=True)
class Health:
    """Of the model without an edit and with it.

    perplexity: of the held-out text. known: facts about other subjects that the model answers right; lost: how many of
    them it answers otherwise with the edit.
    """

    perplexity_before: float
    perplexity: float
    known: int
    lost: int

    @property
    def perplexity_ratio(self) -> float:
        """With the edit ÷ without; not finite where the edited model's numbers are not."""
        return self.perplexity / self.perplexity_before

    @property
    def lost_share(self) -> float:
        """Of the known answers; 0 for a model that knows none of those asked."""
        return self.lost / self.known if self.known else 0.0

    def to_dict(self) -> dict[str, float]:
        """As a JSON object."""
        return {**asdict(self), "perplexity_ratio": self.perplexity_ratio, "lost_share": self.lost_share}


@dataclass(frozen=True)
class Limits:
    """How much an edit may do to the model, and what happens beyond that.

    max_perplexity_ratio: of the held-out text's perplexity with the edit to that without. max_lost: of the share of
    known answers lost. policy: "warn" logs it; "refuse" and "rollback" raise EditError, the model as before. Numbers
    that are not finite raise whatever the policy.
    """

    max_perplexity_ratio: float = 1.2
    max_lost: float = 0.2
    policy: Policy = "rollback"

    def check(self, health: Health) -> None:
        """Raises EditError, or logs a warning, for what is beyond the limits."""
        if not math.isfinite(health.perplexity):
            raise EditError("with this edit the model's numbers are not finite: use a smaller clamp or float32 weights")
        beyond = []
        if health.perplexity_ratio > self.max_perplexity_ratio:
            beyond.append(
                f"perplexity of held-out text goes from {health.perplexity_before:.4g} to {health.perplexity:.4g} "
                f"(limit {self.max_perplexity_ratio:g} times)"
            )
        if health.lost_share > self.max_lost:
            beyond.append(
                f"{health.lost} of {health.known} known answers about other subjects are lost "
                f"(limit {self.max_lost:.0%})"
            )
        if not beyond:
            return
        message = f"this edit damages the model: {'; '.join(beyond)}"
        if self.policy != "warn":
            raise EditError(f"{message} (use another layer or method, fewer facts, or the policy warn)")
        log.warning(message)


class Checkup:
    """What edits of one model are measured against: measured once on the model as it is now, best before any edit.

    text: held-out; None is the package's own, some 900 words of plain English. facts: with `target_true`; None are some
    of the package's own. Those that the model answers wrong now do not count.
    Raises PromptError for a text of less than two tokens, EditError for a model whose numbers are not finite.
    """

    def __init__(self, model: LanguageModel, text: str | None = None, facts: Sequence[Fact] | None = None) -> None:
        self._model = model
        held_out = data_file("held_out.txt").read_text(encoding="utf-8") if text is None else text
        self._windows = text_windows(model, held_out)
        self._perplexity = self._measure()
        if not math.isfinite(self._perplexity):
            raise EditError(f"the numbers of {model.name} are not finite before any edit: load it in float32")
        asked = _asked(model, _some_facts() if facts is None else facts)
        answers = _answers(model, [prompt for _, prompt, _ in asked])
        self._known = [one for one, answer in zip(asked, answers, strict=True) if answer == one[2]]

    def of(self, edit: Edit) -> Health:
        """The health of the model with this edit, which is taken out again. Raises WrongWeightsError."""
        with edit.applied(self._model):
            return self.now(edit)

    def now(self, *edits: Edit) -> Health:
        """The health of the model as it is now, with these edits in force; facts about their subjects do not count."""
        subjects = {str(fact.get("subject")) for edit in edits for fact in edit.provenance.facts}
        others = [
            one for one in self._known if one[0].subject not in subjects and not any(s in one[0].text for s in subjects)
        ]
        answers = _answers(self._model, [prompt for _, prompt, _ in others])
        lost = sum(answer != one[2] for one, answer in zip(others, answers, strict=True))
        return Health(self._perplexity, self._measure(), len(others), lost)

    def _measure(self) -> float:
        """Perplexity of the held-out text."""
        found = [window_nll(self._model, ids) for ids in self._windows]
        return perplexity_of(sum(total for total, _ in found) / sum(tokens for _, tokens in found))


def apply_guarded(model: LanguageModel, edit: Edit, checkup: Checkup, limits: Limits | None = None) -> Handle:
    """Apply an edit for good where the model stays healthy with it; else it is taken out again, bit for bit.

    checkup: of this model, made before the edit. Raises EditError as `Limits.check` does, WrongWeightsError.
    """
    edit.check(model)
    stack = Stack(model)
    handle = stack.handle()
    try:
        stack.push(edit.layers, handle)
        (limits or Limits()).check(checkup.now(edit))
    except BaseException:
        handle.undo()
        raise
    return handle


_Asked = tuple[Fact, Prompt, int]


def _some_facts() -> list[Fact]:
    facts = [fact for _, fact in read_facts(data_file("facts.json")).facts]
    return facts[:: max(1, len(facts) // FACTS)]


def _asked(model: LanguageModel, facts: Sequence[Fact]) -> list[_Asked]:
    """Facts, their prompts and their answers' first tokens; those that this tokenizer cannot ask are left out."""
    found = []
    for fact in facts:
        if fact.target_true is None:
            continue
        try:
            found.append((fact, model.tokenize(fact.text), model.target_ids(fact.text, fact.target_true)[0]))
        except PromptError as error:
            log.debug("%r is not asked: %s", fact.text, error)
    return found


def _answers(model: LanguageModel, prompts: Sequence[Prompt]) -> list[int]:
    """The most probable next token of each prompt; those of one length are asked together."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt.input_ids)].append(index)
    answers = [0] * len(prompts)
    for group in by_length.values():
        found = model.batch_logits([prompts[index] for index in group]).argmax(-1).tolist()
        for index, answer in zip(group, found, strict=True):
            answers[index] = int(answer)
    return answers


def text_windows(model: LanguageModel, text: str, window: int = WINDOW, tokens: int | None = None) -> list[Tensor]:
    """The first `tokens` tokens of a text, one window after another, each (1, tokens) and of at most `window` tokens.

    No document-start token is added. A window of one token, which has nothing to predict, is left out.
    Raises PromptError for a text of less than two tokens.
    """
    ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:tokens]
    window = min(window, model.architecture.context or window)
    parts = [ids[begin : begin + window] for begin in range(0, len(ids), window)]
    parts = [part for part in parts if len(part) > 1]
    if not parts:
        raise PromptError("the held-out text is too short: give one of some hundred words")
    return [torch.tensor([part], device=model.device) for part in parts]


@torch.no_grad()
def window_nll(model: LanguageModel, ids: Int[Tensor, "1 tokens"]) -> tuple[float, int]:
    """The summed NLL in nats of a window's tokens behind its first, and how many these are."""
    logits: Tensor = model.module(input_ids=ids, use_cache=False).logits[0, :-1].float()
    said = logits.log_softmax(-1).gather(1, ids[0, 1:, None].to(logits.device))
    return -float(said.double().sum()), len(said)


def perplexity_of(nll: float) -> float:
    """exp of a mean NLL in nats; infinite where that is beyond what a float holds."""
    return math.exp(nll) if not nll >= 700 else math.inf
