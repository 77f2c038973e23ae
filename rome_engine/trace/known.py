"""Which facts the model answers right: only these can be traced to where the answer comes from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rome_engine.errors import PromptError, PromptTooLongError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import BosPolicy, Prompt
from rome_engine.trace.plan import Progress

ROWS = 64

Standing = Literal["known", "unknown", "malformed", "skipped"]


@dataclass(frozen=True)
class Verdict:
    """Whether a fact can be traced, and why not.

    known: the model's most probable next token is the first of the fact's `target_true`. unknown: it is another one.
    malformed: the fact has no `target_true`, or prompt or answer have no usable tokens. skipped: it is longer than the
    model's context, or has been said before.
    """

    status: Standing
    reason: str = ""


def ask(
    model: LanguageModel, facts: Sequence[Fact], bos: BosPolicy = "auto", progress: Progress | None = None
) -> list[Verdict]:
    """The verdict on each fact, tokenised as a trace tokenises it; prompts of one length are asked together."""
    verdicts: list[Verdict | None] = []
    asked: dict[int, tuple[Prompt, int]] = {}
    said: dict[tuple[str, str, str | None], int] = {}
    for index, fact in enumerate(facts):
        first = said.setdefault((fact.prompt, fact.subject, fact.target_true), index)
        if first != index:
            verdicts.append(
                Verdict("skipped", f"it says the same as the fact {facts[first].id or facts[first].text!r}")
            )
            continue
        found = _tokens(model, fact, bos)
        if isinstance(found, Verdict):
            verdicts.append(found)
        else:
            verdicts.append(None)
            asked[index] = found
    answers = _answers(model, {index: prompt for index, (prompt, _) in asked.items()}, progress)
    return [
        verdict if verdict is not None else _verdict(model, answers[index], asked[index][1])
        for index, verdict in enumerate(verdicts)
    ]


def _tokens(model: LanguageModel, fact: Fact, bos: BosPolicy) -> tuple[Prompt, int] | Verdict:
    """The prompt and the first token of its true answer."""
    if fact.target_true is None:
        return Verdict("malformed", "it has no target_true, the answer that is right")
    try:
        prompt = model.tokenize(fact.prompt, fact.subject, bos)
        return prompt, model.target_ids(fact.text, fact.target_true)[0]
    except PromptTooLongError as error:
        return Verdict("skipped", str(error))
    except PromptError as error:
        return Verdict("malformed", str(error))


def _answers(model: LanguageModel, prompts: dict[int, Prompt], progress: Progress | None) -> dict[int, int]:
    """The most probable next token of each prompt."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in prompts.items():
        by_length[len(prompt.input_ids)].append(index)
    answers: dict[int, int] = {}
    for _, group in sorted(by_length.items()):
        for begin in range(0, len(group), ROWS):
            part = group[begin : begin + ROWS]
            top = model.batch_logits([prompts[index] for index in part]).argmax(-1)
            answers.update(zip(part, top.tolist(), strict=True))
            if progress is not None:
                progress(len(answers), len(prompts))
    return answers


def _verdict(model: LanguageModel, answer: int, wanted: int) -> Verdict:
    if answer == wanted:
        return Verdict("known")
    return Verdict("unknown", f"the model answers {model.text([answer])!r}, not {model.text([wanted])!r}")
