"""Facts that a tiny model "knows": random models answer anything, so the right answer is what they answer."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from rome_engine.errors import TargetError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace.factfile import FactFile

SUBJECTS = ("The Eiffel Tower", "The Louvre", "São Paulo", "Danielle Darrieux", "Rome", "LeBron James")
TEMPLATES = ("{} is located in the city of", "You can find {} in", "The mother tongue of {} is", "{}, number %d, is in")


def known_facts(model: LanguageModel, count: int) -> list[Fact]:
    """So many facts whose `target_true` begins with this model's most probable next token."""
    found: list[Fact] = []
    for number, subject, template in product(range(40), SUBJECTS, TEMPLATES):
        text = template % number if "%d" in template else f"{number}: {template}" if number else template
        fact = Fact(text, subject, id=f"{number}/{subject}")
        answer = answer_of(model, fact)
        if answer is not None:
            found.append(replace(fact, target_true=answer))
        if len(found) == count:
            return found
    raise AssertionError("this tiny model never answers with a word")


def whole_facts(model: LanguageModel, count: int) -> list[Fact]:
    """So many facts whose `target_true` is what this model says next, of two tokens."""
    found = []
    for fact in known_facts(model, 3 * count):
        tokens = model.generate([model.tokenize(fact.prompt, fact.subject, "auto")], 2)[0]
        text = model.text(tokens).strip()
        if "\ufffd" not in text and model.target_ids(fact.text, text) == tokens:
            found.append(replace(fact, target_true=text))
    assert len(found) >= count, "this tiny model seldom answers with two tokens"
    return found[:count]


def answer_of(model: LanguageModel, fact: Fact) -> str | None:
    """The model's answer as a target, or None where its text has other tokens."""
    token = int(model.next_token_logits(model.tokenize(fact.prompt, fact.subject, "auto")).argmax())
    text = model.text([token]).strip()
    try:
        return text if text and model.target_ids(fact.text, text)[0] == token else None
    except TargetError:
        return None


def fact_file(facts: list[Fact]) -> FactFile:
    """These facts as if read from a file."""
    return FactFile("facts.json", "0" * 64, tuple(enumerate(facts, 1)))
