"""Which facts the model answers right: only these can be traced to where the answer comes from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rome_engine.errors import PromptError, PromptTooLongError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import BosPolicy, Prompt
from rome_engine.trace.plan import Progress

ROWS = 64

Standing = Literal["known", "unknown", "malformed", "skipped"]
AnswerTokens = Literal["all", "first"]
"""Which tokens of a right answer count."""


@dataclass(frozen=True)
class Verdict:
    """Whether a fact can be traced, and why not.

    known: the model's most probable tokens are those of the fact's `target_true`, each after the ones before it, or the
    first of them where no other counts. unknown: one is another. malformed: the fact has no `target_true`, or prompt or
    answer have no usable tokens. skipped: it is longer than the model's context, or has been said before.
    """

    status: Standing
    reason: str = ""


def ask(
    model: LanguageModel,
    facts: Sequence[Fact],
    bos: BosPolicy = "auto",
    progress: Progress | None = None,
    *,
    answer_tokens: AnswerTokens = "all",
) -> list[Verdict]:
    """The verdict on each fact, tokenised as a trace tokenises it; prompts of one length are asked together."""
    verdicts: dict[int, Verdict] = {}
    asked: dict[int, tuple[Prompt, tuple[int, ...]]] = {}
    said: dict[tuple[str, str, str | None], int] = {}
    for index, fact in enumerate(facts):
        first = said.setdefault((fact.prompt, fact.subject, fact.target_true), index)
        if first != index:
            verdicts[index] = Verdict(
                "skipped", f"it says the same as the fact {facts[first].id or facts[first].text!r}"
            )
            continue
        found = _tokens(model, fact, bos, answer_tokens)
        if isinstance(found, Verdict):
            verdicts[index] = found
        else:
            asked[index] = found
    verdicts |= _answered(model, asked, progress)
    return [verdicts[index] for index in range(len(facts))]


def _tokens(
    model: LanguageModel, fact: Fact, bos: BosPolicy, answer_tokens: AnswerTokens
) -> tuple[Prompt, tuple[int, ...]] | Verdict:
    """The prompt and the tokens of its true answer that count."""
    if fact.target_true is None:
        return Verdict("malformed", "it has no target_true, the answer that is right")
    try:
        prompt = model.tokenize(fact.prompt, fact.subject, bos)
        answer = model.target_ids(fact.text, fact.target_true)
        answer = answer[:1] if answer_tokens == "first" else answer
        model.check_length(prompt, len(answer))
        return prompt, answer
    except PromptTooLongError as error:
        return Verdict("skipped", str(error))
    except PromptError as error:
        return Verdict("malformed", str(error))


def _answered(
    model: LanguageModel, asked: Mapping[int, tuple[Prompt, tuple[int, ...]]], progress: Progress | None
) -> dict[int, Verdict]:
    """Known or unknown, token by token: the next one is asked for only where those before it were right."""
    verdicts: dict[int, Verdict] = {}
    going, place = dict(asked), 0
    while going:
        begun = {
            index: replace(prompt, input_ids=(*prompt.input_ids, *answer[:place]))
            for index, (prompt, answer) in going.items()
        }
        # The first token is nearly all of the work, and the only one that all facts have.
        found = _next_tokens(model, begun, progress if place == 0 else None)
        for index, token in found.items():
            answer = going[index][1]
            if token != answer[place]:
                verdicts[index] = _unknown(model, token, answer, place)
            elif place + 1 == len(answer):
                verdicts[index] = Verdict("known")
        going = {index: one for index, one in going.items() if index not in verdicts}
        place += 1
    return verdicts


def _unknown(model: LanguageModel, token: int, answer: tuple[int, ...], place: int) -> Verdict:
    after = f"after {model.text(answer[:place])!r} " if place else ""
    return Verdict("unknown", f"{after}the model answers {model.text([token])!r}, not {model.text([answer[place]])!r}")


def _next_tokens(model: LanguageModel, prompts: Mapping[int, Prompt], progress: Progress | None) -> dict[int, int]:
    """The most probable next token of each prompt."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in prompts.items():
        by_length[len(prompt.input_ids)].append(index)
    found: dict[int, int] = {}
    for _, group in sorted(by_length.items()):
        for begin in range(0, len(group), ROWS):
            part = group[begin : begin + ROWS]
            top = model.batch_logits([prompts[index] for index in part]).argmax(-1)
            found.update(zip(part, top.tolist(), strict=True))
            if progress is not None:
                progress(len(found), len(prompts))
    return found
