"""The tokens of the answer that an edit shall bring about."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from rome_engine.errors import TargetError
from rome_engine.facts import Fact
from rome_engine.model.hooks import Trace, first_tensor
from rome_engine.model.language_model import LanguageModel

_TOKENS_AT_ONCE = 1024

log = logging.getLogger(__name__)


def new_target(model: LanguageModel, fact: Fact) -> tuple[int, ...]:
    """The tokens of the fact's `target_new` as they follow its prompt.

    Raises as `target_tokens` does, and TargetError for a target that the model already gives.
    """
    target = target_tokens(model, fact)
    check_new(model, [fact], [target])
    return target


def target_tokens(model: LanguageModel, fact: Fact) -> tuple[int, ...]:
    """The same, without asking the model.

    Raises TargetError for a target that is missing, empty or tokenises to nothing, PromptTooLongError where prompt and
    target do not fit the context.
    """
    if fact.target_new is None or not fact.target_new.strip():
        raise TargetError("the target is empty: name the answer the model shall give")
    prompt = model.tokenize(fact.prompt, fact.subject)
    target = model.target_ids(fact.text, fact.target_new)
    model.check_length(prompt, len(target))
    return target


def check_new(model: LanguageModel, facts: Sequence[Fact], targets: Sequence[Sequence[int]], others: int = 0) -> None:
    """Raise TargetError where all targets are already the model's answers: there is nothing to do.

    Some among many are logged as a warning: a benchmark's records must not depend on what else is in it. others: how
    many more facts are edited with these, whose values were found before: one that was killed goes on as it began.
    """
    known = already_answered(model, facts, targets)
    if not known:
        return
    fact = facts[known[0]]
    said = f"{fact.target_new!r} is already the answer to {fact.text!r}"
    if len(known) == len(facts) + others:
        raise TargetError(f"{said}: name another target")
    edited = len(facts) + others
    log.warning("%d of %d targets are already the answers (%s); they are edited all the same", len(known), edited, said)


@torch.no_grad()
def already_answered(model: LanguageModel, facts: Sequence[Fact], targets: Sequence[Sequence[int]]) -> list[int]:
    """Which of the facts the model already answers with the target: each of its tokens the likeliest one."""
    rows = [
        (*model.tokenize(fact.prompt, fact.subject).input_ids, *target)
        for fact, target in zip(facts, targets, strict=True)
    ]
    size = max(1, _TOKENS_AT_ONCE // max(map(len, rows), default=1))
    found: list[int] = []
    for begin in range(0, len(rows), size):
        some = rows[begin : begin + size]
        # What comes behind a token does not reach it, padding included.
        width = max(map(len, some))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in some], device=model.device)
        with Trace(model.module, model.architecture.blocks[-1]) as top:
            model.module.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        for index, states in enumerate(first_tensor(top.output), begin):
            row, target = rows[index], targets[index]
            likeliest = model.unembed(states[len(row) - len(target) - 1 : len(row) - 1]).argmax(-1)
            if likeliest.tolist() == list(target):
                found.append(index)
    return found
