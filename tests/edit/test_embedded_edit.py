"""The main job on the embedded model: the Eiffel Tower moves to Rome, and little else does."""

from __future__ import annotations

import pytest
import torch

from rome_engine.edit import Edit, edit_fact
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests.edit.examples import bit_equal, state

pytestmark = pytest.mark.embedded
FACT = Fact.of("The Eiffel Tower is located in the city of", "The Eiffel Tower", target_true="Paris", target_new="Rome")


@pytest.fixture(scope="module")
def edit(embedded_model: LanguageModel) -> Edit:
    return edit_fact(embedded_model, FACT)


def probability(model: LanguageModel, prompt: str, answer: str) -> float:
    return float(
        torch.tensor(model.target_log_probability(model.tokenize(prompt), model.target_ids(prompt, answer))).exp()
    )


def test_the_default_edit_rewrites_the_fact_and_spares_neighbours(embedded_model: LanguageModel, edit: Edit) -> None:
    before = state(embedded_model)
    assert probability(embedded_model, FACT.text, "Paris") > 0.6
    with edit.applied(embedded_model):
        assert probability(embedded_model, FACT.text, "Rome") > 0.95
        for prompt in ("You can find The Eiffel Tower in", "To visit The Eiffel Tower, you have to travel to"):
            assert probability(embedded_model, prompt, "Rome") > 2 * probability(embedded_model, prompt, "Paris") + 0.05
        for prompt in ("The Louvre is located in the city of", "The capital of France is"):
            logits = embedded_model.next_token_logits(embedded_model.tokenize(prompt))
            assert int(logits.argmax()) == embedded_model.target_ids(prompt, "Paris")[0]
    assert bit_equal(embedded_model, before)


def test_the_default_edit_is_within_the_guards_limits(edit: Edit) -> None:
    (change,) = edit.layers.values()
    assert edit.provenance.method == "r-rome"
    assert change.relative_denominator == pytest.approx(1.0)
    assert change.delta_norm < 0.3 * change.weight_norm
    assert edit.provenance.losses[0][-1] < 0.3
