"""EMMET: R-ROME for one fact, MEMIT of one layer for many, and exact without a ridge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rome_engine.edit import editor
from rome_engine.edit.context import sample
from rome_engine.edit.key import Subjects
from rome_engine.edit.methods.emmet import EmmetConfig
from rome_engine.edit.methods.rome import RomeConfig
from rome_engine.edit.value import ValueConfig
from rome_engine.edit.values import values
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import FACT, LAYER, bit_equal, random_moment, state

FACTS = (FACT, *(Fact("The capital of {} is", name, target_new="London") for name in ("France", "Japan", "Greece")))
VALUE = ValueConfig(steps=4, clamp=0.7)


def fit(model: LanguageModel, *facts: Fact, **changed: Any) -> Any:
    config = replace(EmmetConfig(LAYER, VALUE, lengths=(3, 5)), **changed)
    return editor("emmet").fit(model, facts, {LAYER: random_moment(tiny.D_MLP)}, config)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj", "olmo2"])
def test_without_a_ridge_every_fact_gets_its_value_at_its_mean_key(family: str) -> None:
    model = tiny.language_model(family)
    before = state(model)
    edit = fit(model, *FACTS, ridge=0.0)
    assert bit_equal(model, before) and edit.rank == len(FACTS)
    contexts = sample(model, lengths=(3, 5))
    found = values(model, FACTS, contexts, LAYER, VALUE, store=None)
    mean = Subjects(model, FACTS, contexts).mean(LAYER)
    moved = mean.values + mean.keys @ edit.delta(LAYER).T
    wanted = torch.stack([value.target for value in found])
    assert (moved - wanted).norm() < 1e-3 * (wanted - mean.values).norm()
    with edit.applied(model):  # as the model itself has it
        assert torch.allclose(Subjects(model, FACTS, contexts).mean(LAYER).values, wanted, rtol=1e-2, atol=1e-2)
    ridged = fit(model, *FACTS, ridge=0.5)
    assert (mean.values + mean.keys @ ridged.delta(LAYER).T - wanted).norm() > 0.01 * (wanted - mean.values).norm()


def test_of_one_fact_without_a_ridge_it_is_r_rome() -> None:
    model = tiny.language_model("llama")
    r_rome = editor("r-rome").fit(
        model, [FACT], {LAYER: random_moment(tiny.D_MLP)}, RomeConfig(LAYER, VALUE, lengths=(3, 5))
    )
    assert torch.allclose(fit(model, FACT, ridge=0.0).delta(LAYER), r_rome.delta(LAYER), rtol=1e-4, atol=1e-6)
    assert fit(model, FACT).layers[LAYER].delta_norm < r_rome.layers[LAYER].delta_norm


def test_a_scale_of_the_moment_is_a_scale_of_the_ridge() -> None:
    model = tiny.language_model("gpt2")
    one, other = fit(model, *FACTS, scale=20.0, ridge=0.1), fit(model, *FACTS, scale=1.0, ridge=2.0)
    assert torch.equal(one.delta(LAYER), other.delta(LAYER))
    assert not torch.allclose(one.delta(LAYER), fit(model, *FACTS).delta(LAYER), rtol=1e-2)
