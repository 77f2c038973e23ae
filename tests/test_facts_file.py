"""The shipped facts hold what editing and tracing need of them, and the embedded model knows them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from rome_engine.facts import Fact
from rome_engine.resources import data_file

if TYPE_CHECKING:
    from rome_engine.model.language_model import LanguageModel

FACTS = tuple(Fact.from_dict(record) for record in json.loads(data_file("facts.json").read_text(encoding="utf-8")))
SAMPLE = FACTS[:: len(FACTS) // 40][:40]
STATED = 0.25


def named(facts: Iterable[Fact]) -> list[str | None]:
    """What a failed assertion shows."""
    return [fact.id for fact in facts]


def test_there_are_many_facts_in_many_relations_and_none_dominates() -> None:
    relations = Counter(fact.relation for fact in FACTS)
    assert len(FACTS) >= 400 and len(relations) >= 15
    assert min(relations.values()) >= 8 and max(relations.values()) <= 0.15 * len(FACTS)


def test_the_first_fact_is_that_of_the_examples() -> None:
    assert FACTS[0].text == "The Eiffel Tower is located in the city of" and FACTS[0].target_true == "Paris"


def test_nothing_occurs_twice() -> None:
    assert len({fact.id for fact in FACTS}) == len({(fact.prompt, fact.subject) for fact in FACTS}) == len(FACTS)


def test_ids_name_relation_and_subject() -> None:
    assert not named(fact for fact in FACTS if not str(fact.id).startswith(f"{fact.relation}/"))
    assert all(str(fact.id).isascii() and " " not in str(fact.id) for fact in FACTS)


def test_prompts_and_openings_are_filled_and_end_where_the_answer_begins() -> None:
    for fact in FACTS:
        templates = (fact.prompt, *fact.paraphrases)
        texts = (*fact.neighbourhood, *fact.generation)
        assert all(template.count("{}") == 1 for template in templates), fact.id
        assert not any("{" in text or "}" in text for text in (*texts, fact.subject)), fact.id
        assert all(text == " ".join(text.split()) for text in (*templates, *texts)), fact.id
        assert all(text[-1].isalpha() or text.endswith("'s") for text in (*templates, *fact.neighbourhood)), fact.id
        assert all(fact.subject in text for text in fact.generation), fact.id


def test_paraphrases_neighbourhood_and_openings_are_enough_and_different() -> None:
    for fact in FACTS:
        assert len({fact.prompt, *fact.paraphrases}) == len(fact.paraphrases) + 1 >= 3, fact.id
        assert len(set(fact.neighbourhood)) == len(fact.neighbourhood) >= 5, fact.id
        assert len(set(fact.generation)) == len(fact.generation) >= 2, fact.id


def test_the_neighbourhood_is_asked_in_the_relations_words_of_other_subjects() -> None:
    wordings: dict[str | None, set[tuple[str, ...]]] = defaultdict(set)
    for fact in FACTS:
        wordings[fact.relation] |= {tuple(template.split("{}")) for template in (fact.prompt, *fact.paraphrases)}
    for fact in FACTS:
        assert not any(fact.subject.lower() in text.lower() for text in fact.neighbourhood), fact.id
        for text in fact.neighbourhood:
            assert any(text.startswith(head) and text.endswith(tail) for head, tail in wordings[fact.relation]), text


def test_the_new_target_is_another_answer_of_the_relation() -> None:
    answers: dict[str | None, set[str | None]] = defaultdict(set)
    for fact in FACTS:
        answers[fact.relation].add(fact.target_true)
    assert not named(fact for fact in FACTS if fact.target_new in (None, fact.target_true))
    foreign = [fact for fact in FACTS if fact.target_new not in answers[fact.relation]]
    assert len(foreign) <= 0.02 * len(FACTS), named(foreign)


def test_no_prompt_says_its_answer() -> None:
    said = [fact for fact in FACTS if f" {fact.target_true} ".lower() in f" {fact.text} ".lower()]
    said += [fact for fact in FACTS if f" {fact.target_new} ".lower() in f" {fact.text} ".lower()]
    assert not named(said)


def test_the_counterfactual_is_another_fact_of_the_prompt_with_another_answer() -> None:
    answers = {(fact.relation, fact.prompt, fact.subject): fact.target_true for fact in FACTS}
    for fact in FACTS:
        other = answers[fact.relation, fact.prompt, str(fact.counterfactual)]
        assert other not in (None, fact.target_true), fact.id


@pytest.mark.embedded
def test_the_embedded_model_knows_a_sample(embedded_model: LanguageModel) -> None:
    known = {fact.id: probability(embedded_model, fact) for fact in SAMPLE}
    wrong = {fact.id: probability(embedded_model, replace(fact, target_true=fact.target_new)) for fact in SAMPLE}
    assert len(SAMPLE) == 40 and min(known.values()) >= STATED, known
    assert not any(wrong.values()), wrong


@pytest.mark.embedded
def test_counterfactuals_fill_as_many_tokens(embedded_model: LanguageModel) -> None:
    for fact in FACTS:
        one, two = (embedded_model.tokenize(fact.prompt, name) for name in (fact.subject, str(fact.counterfactual)))
        assert (len(one.input_ids), one.subject_range) == (len(two.input_ids), two.subject_range), fact.id


@torch.no_grad()
def probability(model: LanguageModel, fact: Fact) -> float:
    """Of the answer's first token; 0 where it or a later token of the answer is not the most probable one."""
    target = model.target_ids(fact.text, str(fact.target_true))
    ids = torch.tensor([[*model.tokenize(fact.prompt, fact.subject).input_ids, *target[:-1]]])
    logits = model.module(input_ids=ids, use_cache=False).logits[0, -len(target) :].float()
    right = logits.argmax(-1).tolist() == list(target)
    return float(logits[0].softmax(-1)[target[0]]) * right
