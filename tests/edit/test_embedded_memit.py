"""MEMIT on the embedded model: several facts at once, in one layer whose second moments are shipped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rome_engine import stats
from rome_engine.edit import editor
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests.edit.examples import bit_equal, state

pytestmark = pytest.mark.embedded
FACTS = (
    Fact.of("The Eiffel Tower is located in the city of", "The Eiffel Tower", target_true="Paris", target_new="Rome"),
    Fact.of("The Colosseum is located in the country of", "The Colosseum", target_true="Italy", target_new="Spain"),
    Fact.of("Big Ben is located in the city of", "Big Ben", target_true="London", target_new="Berlin"),
)
ELSEWHERE = ("The Louvre is located in the city of", "The capital of France is")


def test_three_facts_become_the_answer_and_their_neighbours_stay(embedded_model: LanguageModel) -> None:
    before, method = state(embedded_model), editor("memit")
    config = replace(method.default(embedded_model), layers=(8,))
    edit = method.fit(embedded_model, FACTS, stats.moments(embedded_model, [8]), config)
    assert bit_equal(embedded_model, before) and edit.rank == 3

    def likelier(fact: Fact) -> float:
        """ln p(new) − ln p(true), a token."""
        scores = []
        for target in (fact.target_new, fact.target_true):
            ids = embedded_model.target_ids(fact.text, str(target))
            scores.append(embedded_model.target_log_probability(embedded_model.tokenize(fact.text), ids) / len(ids))
        return scores[0] - scores[1]

    def answers() -> list[int]:
        return [int(embedded_model.next_token_logits(embedded_model.tokenize(text)).argmax()) for text in ELSEWHERE]

    assert all(likelier(fact) < 0 for fact in FACTS)
    known = answers()
    with edit.applied(embedded_model):
        assert all(likelier(fact) > 1 for fact in FACTS)
        assert answers() == known
