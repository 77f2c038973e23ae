"""Another subject of as many tokens for which the model gives another answer: the partner of a swap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rome_engine.errors import TraceError
from rome_engine.facts import Fact, template
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import BosPolicy, Prompt

ROWS = 64
MARGIN = 0.05
"""A partner's own answer must be this probable: a model that does not know it has nothing to contrast."""


@dataclass(frozen=True)
class Partner:
    """A counterfactual subject: its prompt, the model's answer there, and that answer's probability."""

    subject: str
    prompt: Prompt
    answer_id: int
    probability: float


def find_partner(
    model: LanguageModel,
    prompt: str,
    clean: Prompt,
    answer_id: int,
    facts: Iterable[Fact],
    bos: BosPolicy = "never",
    relation: str | None = None,
) -> Partner:
    """The subject of a known fact that can stand in the subject's place with another answer (Zhang & Nanda 2023).

    prompt: plain text or template; clean: its tokens. Among the subjects with the same span of tokens there, and as
    the most probable next token another one than `answer_id`: those of the same relation first (the given one, or any
    whose facts ask in this prompt's words), then the one whose answer is most probable.
    Raises TraceError where no fact's subject fits.
    """
    place = template(prompt, clean.subject or "")
    known = list(facts)
    ask_so = {relation} if relation is not None else {fact.relation for fact in known if fact.prompt == place}
    related = {fact.subject for fact in known if fact.prompt == place or (fact.relation and fact.relation in ask_so)}
    subjects = list(dict.fromkeys(fact.subject for fact in known if fact.subject != clean.subject))
    for group in (related, set(subjects) - related):
        fitting = [
            found
            for subject in subjects
            if subject in group and (found := _same_span(model, place, subject, clean, bos)) is not None
        ]
        partners = [one for one in _answered(model, fitting) if one.answer_id != answer_id and one.probability > MARGIN]
        if partners:
            return max(partners, key=lambda one: one.probability)
    raise TraceError(
        f"no known subject of {len(range(*clean.subject_range or (0, 0)))} tokens with another answer was found for "
        f"{clean.text!r}: name one with swap:OTHER SUBJECT, or corrupt with noise"
    )


def fitting_partner(
    model: LanguageModel, prompt: str, clean: Prompt, subject: str, answer_id: int, bos: BosPolicy = "never"
) -> Partner | None:
    """This subject, if it covers the same tokens there and has another answer than `answer_id`; else None."""
    found = _same_span(model, template(prompt, clean.subject or ""), subject, clean, bos)
    partner = None if found is None else _answered(model, [found])[0]
    return partner if partner is not None and partner.answer_id != answer_id else None


def named_partner(
    model: LanguageModel, prompt: str, clean: Prompt, subject: str, answer_id: int, bos: BosPolicy = "never"
) -> Partner:
    """The partner that is named. Raises TraceError where it covers other tokens or has the same answer."""
    place = template(prompt, clean.subject or "")
    if subject == clean.subject:
        raise TraceError(f"the subject {subject!r} cannot be swapped for itself: name another one")
    found = _same_span(model, place, subject, clean, bos)
    if found is None:
        begin, end = clean.subject_range or (0, 0)
        raise TraceError(
            f"the subject {subject!r} cannot be swapped for {clean.subject!r}: it does not cover the same tokens "
            f"{begin} to {end - 1} of the prompt; name one of as many tokens"
        )
    partner = _answered(model, [found])[0]
    if partner.answer_id == answer_id:
        raise TraceError(
            f"the subject {subject!r} has the same answer {model.text([answer_id])!r} as {clean.subject!r}: there is "
            "nothing to bring back; name one with another answer"
        )
    return partner


def _same_span(model: LanguageModel, place: str, subject: str, clean: Prompt, bos: BosPolicy) -> Prompt | None:
    """The prompt with another subject, where all other tokens are the clean prompt's."""
    if subject == clean.subject:
        return None
    policy: BosPolicy = "always" if clean.bos_added else "never" if bos == "auto" else bos
    found = model.tokenize(place, subject, policy)
    begin, end = clean.subject_range or (0, 0)
    same = (
        found.subject_range == clean.subject_range
        and len(found.input_ids) == len(clean.input_ids)
        and found.input_ids[:begin] == clean.input_ids[:begin]
        and found.input_ids[end:] == clean.input_ids[end:]
    )
    return found if same else None


def _answered(model: LanguageModel, prompts: Sequence[Prompt]) -> list[Partner]:
    found = []
    for begin in range(0, len(prompts), ROWS):
        part = prompts[begin : begin + ROWS]
        top = model.batch_logits(part).softmax(-1).max(-1)
        for prompt, answer, probability in zip(part, top.indices.tolist(), top.values.tolist(), strict=True):
            found.append(Partner(prompt.subject or "", prompt, int(answer), float(probability)))
    return found
