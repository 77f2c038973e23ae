"""The tokens of the answer that an edit shall bring about."""

from __future__ import annotations

import torch

from rome_engine.errors import TargetError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel


@torch.no_grad()
def new_target(model: LanguageModel, fact: Fact) -> tuple[int, ...]:
    """The tokens of the fact's `target_new` as they follow its prompt.

    Raises TargetError for a target that is missing, empty, tokenises to nothing, or that the model already gives: each
    of its tokens the likeliest one. Raises PromptTooLongError where prompt and target do not fit the context.
    """
    if fact.target_new is None or not fact.target_new.strip():
        raise TargetError("the target is empty: name the answer the model shall give")
    prompt = model.tokenize(fact.prompt, fact.subject)
    target = model.target_ids(fact.text, fact.target_new)
    model.check_length(prompt, len(target))
    ids = torch.tensor([[*prompt.input_ids, *target[:-1]]], device=model.device)
    logits = model.module(input_ids=ids, use_cache=False).logits[0, -len(target) :]
    if logits.argmax(-1).tolist() == list(target):
        raise TargetError(f"{fact.target_new!r} is already the answer to {fact.text!r}: name another target")
    return target
