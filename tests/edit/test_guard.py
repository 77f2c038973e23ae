"""Guards on an update's own numbers: each with the failure that it stops, brought about on a tiny model."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from rome_engine.edit import Edit, editor
from rome_engine.edit.guard import Guard
from rome_engine.edit.methods.rome import RomeConfig
from rome_engine.edit.value import ValueConfig
from rome_engine.errors import EditError, StatisticsError
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment
from tests import tiny
from tests.edit.examples import AT_START, FACT, LAYER, bit_equal, random_moment, state

REFUSE = Guard(min_denominator=0.2, min_reach=0.0, max_norm=1e3, policy="refuse")
# A subject at the very start of the prompt has a key unlike its keys in other contexts.
MIXED = ("gpt2", AT_START)


def fit(model: LanguageModel, method: str, fact: Any, guard: Guard, **value: Any) -> Edit:
    config = RomeConfig(LAYER, ValueConfig(**{"steps": 4, **value}), lengths=(3, 5), guard=guard)
    return editor(method).fit(model, [fact], {LAYER: random_moment(tiny.D_MLP)}, config)


def test_what_is_no_number_is_beyond_every_limit_and_no_limit_itself() -> None:
    nan = float("nan")
    for check in (REFUSE.denominator, REFUSE.reach, lambda layer, found: REFUSE.norms(layer, found, 1.0)):
        with pytest.raises(EditError):
            check(1, nan)
    with pytest.raises(EditError, match="a limit must be a number"):
        Guard(max_norm=nan)
    policy: Any = "rollback"
    with pytest.raises((EditError, TypeCheckError), match="rollback"):  # types are checked in tests alone
        Guard(policy=policy)


def test_mixed_keys_make_a_small_denominator_and_are_refused() -> None:
    """ROME as first published: k̄ in the direction, k₀ in the denominator (arXiv 2403.07175)."""
    family, fact = MIXED
    model = tiny.language_model(family)
    before = state(model)
    with pytest.raises(
        EditError, match=f"the update of layer {LAYER} has a small denominator .* use the method r-rome"
    ):
        fit(model, "rome", fact, REFUSE)
    assert bit_equal(model, before)
    blown = fit(model, "rome", fact, Guard()).layers[LAYER]
    clean = fit(model, "r-rome", fact, REFUSE).layers[LAYER]
    assert blown.relative_denominator is not None and abs(blown.relative_denominator) < 0.2
    assert clean.relative_denominator == pytest.approx(1.0)
    assert blown.delta_norm > 10 * clean.delta_norm  # what the guard stops


def test_by_default_it_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    family, fact = MIXED
    with caplog.at_level(logging.WARNING, "rome_engine.edit.guard"):
        fit(tiny.language_model(family), "rome", fact, Guard())
    assert "small denominator" in caplog.text and "is large" in caplog.text


def test_a_huge_clamp_makes_a_large_update_and_is_refused() -> None:
    model = tiny.language_model("llama")
    before = state(model)
    usual = fit(model, "r-rome", FACT, REFUSE, clamp=0.1).layers[LAYER]
    limit = Guard(max_norm=1.5 * usual.delta_norm / usual.weight_norm, policy="refuse")
    fit(model, "r-rome", FACT, limit, clamp=0.1)
    with pytest.raises(EditError, match=f"the update of layer {LAYER} is large .* or a smaller clamp"):
        fit(model, "r-rome", FACT, limit, clamp=1000.0, learning_rate=5.0, steps=20)
    assert bit_equal(model, before)


def test_keys_that_are_not_finite_never_become_moments() -> None:
    moment = SecondMoment(4)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(StatisticsError, match="not finite"):
            moment.update(torch.full((3, 4), bad))


def test_a_search_whose_numbers_are_not_finite_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits that overflow, as those of float16 weights can."""
    model = tiny.language_model("llama")
    before = state(model)
    monkeypatch.setattr(
        model, "unembed", lambda hidden, out=None: torch.full((*hidden.shape[:-1], tiny.VOCAB), float("inf"))
    )
    with pytest.raises(EditError, match=r"failed in step 1: the loss is nan .*float32"):
        fit(model, "r-rome", FACT, Guard())
    assert bit_equal(model, before)
