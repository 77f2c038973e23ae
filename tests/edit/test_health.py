"""Guards on what an edit does to the model as a whole: each with the failure that it stops."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from rome_engine.edit import Checkup, Edit, Health, LayerEdit, Limits, apply_guarded
from rome_engine.errors import EditError, PromptError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import FACT, LAYER, bit_equal, random_edit, state

TEXT = "The Louvre is in Paris, the capital of France, and the Space Needle is in Seattle. " * 4
PROMPTS = ("{} is the capital of", "You can find {} in", "To visit {}, you have to travel to")
SUBJECTS = ("Rome", "Paris", "Big Ben", "São Paulo")


def known(model: LanguageModel) -> list[Fact]:
    """Facts of a random model: whatever it answers is true, where that is a word."""
    found: list[Fact] = []
    for number, prompt, subject in itertools.product(range(60), PROMPTS, SUBJECTS):
        fact = Fact(f"{number}: {prompt}", subject)
        token = int(model.next_token_logits(model.tokenize(fact.text)).argmax())
        answer = model.text([token]).strip()
        if answer and model.target_ids(fact.text, answer)[0] == token:
            found.append(replace(fact, target_true=answer))
        if {other.subject for other in found} == set(SUBJECTS):
            break
    assert len(found) >= 4
    return found


def scaled(edit: Edit, by: float) -> Edit:
    layers = {layer: replace(change, left=change.left * by) for layer, change in edit.layers.items()}
    return Edit(layers, edit.provenance)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """Every test leaves it as it was."""
    return tiny.language_model("llama")


@pytest.fixture(scope="module")
def facts(model: LanguageModel) -> list[Fact]:
    return known(model)


@pytest.fixture(scope="module")
def _checkup(model: LanguageModel, facts: list[Fact]) -> Checkup:
    return Checkup(model, TEXT, facts)


@pytest.fixture
def checkup(_checkup: Checkup) -> Checkup:
    return copy.copy(_checkup)


def test_perplexity_is_that_of_transformers(model: LanguageModel, checkup: Checkup) -> None:
    """exp of the model's own loss, on a text that fits one window."""
    edit = random_edit(model)
    ids = torch.tensor([model.tokenizer(TEXT)["input_ids"]])
    assert ids.shape[1] < tiny.CONTEXT

    def loss() -> float:
        with torch.no_grad():
            return float(model.module(input_ids=ids, labels=ids).loss)

    before = loss()
    health = checkup.of(edit)
    with edit.applied(model):
        after = loss()
    assert math.isclose(health.perplexity_before, math.exp(before), rel_tol=1e-4)
    assert math.isclose(health.perplexity, math.exp(after), rel_tol=1e-4)


def test_a_long_text_is_read_in_windows(model: LanguageModel) -> None:
    health = Checkup(model, TEXT * 5, []).of(scaled(random_edit(model), 0.0))
    assert health.perplexity == health.perplexity_before and math.isfinite(health.perplexity)


def test_no_change_is_healthy(model: LanguageModel, checkup: Checkup) -> None:
    before = state(model)
    health = checkup.of(scaled(random_edit(model), 0.0))
    assert health.known >= 4 and health.lost == 0 and health.perplexity_ratio == 1
    Limits(1.0, 0.0, "refuse").check(health)
    assert bit_equal(model, before)


def test_facts_about_the_edited_subjects_do_not_count(model: LanguageModel, facts: list[Fact]) -> None:
    edit = random_edit(model)
    about = replace(edit.provenance, facts=({"subject": "Rome"},))
    without = [fact for fact in facts if "Rome" not in fact.text]
    assert 0 < len(without) < len(facts)
    checkup = Checkup(model, TEXT, facts)
    assert checkup.of(Edit(edit.layers, about)).known == len(without)
    each = [Edit({}, replace(edit.provenance, facts=({"subject": fact.subject},))) for fact in facts]
    assert checkup.now(*each).known == 0 < checkup.now().known == len(facts)


def test_an_answer_that_was_wrong_before_is_none_lost(model: LanguageModel, facts: list[Fact]) -> None:
    wrong = [replace(fact, target_true="Seattle, surely") for fact in facts]
    health = Checkup(model, TEXT, [*wrong, FACT]).of(scaled(random_edit(model), 100.0))
    assert health.known == health.lost == 0 and health.lost_share == 0


def wrecked(model: LanguageModel) -> Edit:
    """Large random changes of every layer."""
    return scaled(random_edit(model, tuple(range(model.n_layers)), rank=8), 30.0)


def test_exploding_perplexity_is_stopped(model: LanguageModel, checkup: Checkup) -> None:
    assert stopped(model, checkup, wrecked(model), Limits(max_lost=1.0), "perplexity of held-out text goes from")


def test_lost_answers_are_stopped(model: LanguageModel, checkup: Checkup) -> None:
    limits = Limits(max_perplexity_ratio=math.inf)
    assert stopped(model, checkup, wrecked(model), limits, "known answers about other subjects are lost")


def stopped(model: LanguageModel, checkup: Checkup, edit: Edit, limits: Limits, said: str) -> bool:
    """Rolled back with an error where the policy says so, and only said aloud where it is to warn."""
    before = state(model)
    for policy in ("refuse", "rollback"):
        with pytest.raises(EditError, match=said):
            apply_guarded(model, edit, checkup, replace(limits, policy=policy))
        assert bit_equal(model, before)
    handle = apply_guarded(model, edit, checkup, replace(limits, policy="warn"))
    assert not bit_equal(model, before)
    handle.undo()
    return bit_equal(model, before)


def test_a_warning_is_logged(model: LanguageModel, checkup: Checkup, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rome_engine.edit.health"):
        Limits(policy="warn").check(checkup.of(wrecked(model)))
    assert "this edit damages the model: perplexity" in caplog.text and "; " in caplog.text


def test_a_healthy_edit_stays(model: LanguageModel, checkup: Checkup) -> None:
    before, edit = state(model), scaled(random_edit(model), 1e-3)
    handle = apply_guarded(model, edit, checkup)
    assert not bit_equal(model, before)
    handle.undo()
    assert bit_equal(model, before)


@pytest.mark.parametrize("policy", ["warn", "refuse", "rollback"])
def test_numbers_that_are_not_finite_are_stopped_by_any_policy(policy: str) -> None:
    for perplexity in (math.nan, math.inf):
        with pytest.raises(EditError, match="not finite"):
            Limits(policy=policy).check(Health(10.0, perplexity, 4, 0))  # type: ignore[arg-type]


def test_a_model_that_overflows_is_stopped() -> None:
    """Finite weights whose products are not: what only running the model tells."""
    model = tiny.language_model("gpt2")
    checkup, before = Checkup(model, TEXT, []), state(model)
    edit = scaled(random_edit(model), 1e37)
    with pytest.raises(EditError, match="not finite"):
        apply_guarded(model, edit, checkup, Limits(policy="warn"))
    assert bit_equal(model, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_while_measuring_rolls_back(
    model: LanguageModel, checkup: Checkup, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    before = state(model)
    monkeypatch.setattr(checkup, "now", raising(error))
    with pytest.raises(error):
        apply_guarded(model, random_edit(model), checkup)
    assert bit_equal(model, before)


def raising(error: type[BaseException]) -> Callable[..., Health]:
    def fail(*_: object) -> Health:
        raise error

    return fail


def test_weights_that_are_not_finite_are_never_applied() -> None:
    for dtype, by in ((torch.float16, 1e6), (torch.float32, math.inf), (torch.float32, math.nan)):
        model = tiny.language_model("llama", dtype=dtype)
        before, edit = state(model), scaled(random_edit(model, (0, LAYER)), by)
        with pytest.raises(EditError, match=r"edited weight model.layers.0.*not all numbers are finite"):
            edit.apply_(model)
        assert bit_equal(model, before)
        assert isinstance(edit.layers[LAYER], LayerEdit)


def test_the_packages_own_text_and_facts(model: LanguageModel) -> None:
    """A random model knows none of the facts, and its perplexity is beyond that of guessing."""
    health = Checkup(model).of(scaled(random_edit(model), 0.0))
    assert health.known <= 2 and health.perplexity > tiny.VOCAB
    with pytest.raises(PromptError, match="too short"):
        Checkup(model, "a")


def test_a_model_whose_numbers_are_none_is_told_before_any_edit() -> None:
    model = tiny.language_model("llama")
    model.weight(2)[0, 0] = math.nan
    with pytest.raises(EditError, match="not finite before any edit"):
        Checkup(model, TEXT, [])


@pytest.mark.embedded
def test_the_default_edit_of_the_real_model_is_healthy(embedded_model: LanguageModel) -> None:
    from rome_engine.edit import edit_fact

    fact = Fact.of("The Eiffel Tower is located in the city of", "The Eiffel Tower", target_new="Rome")
    checkup = Checkup(embedded_model)
    health = checkup.of(edit_fact(embedded_model, fact))
    assert 15 < health.perplexity_before < 50 and health.known > 20
    Limits(max_perplexity_ratio=1.05, max_lost=0.1).check(health)
    noise = random_edit(embedded_model, (4, 8, 12), rank=8)
    with pytest.raises(EditError, match=r"perplexity.*; .*known answers"):
        Limits().check(checkup.of(noise))
