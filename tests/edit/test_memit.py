"""The editors that spread: MEMIT, with history, PMET and AlphaEdit, from facts to edit on tiny models."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rome_engine.edit import Edit, edit_facts, editor
from rome_engine.edit.closed_form import ClosedForm, Targets, extended
from rome_engine.edit.guard import Guard
from rome_engine.edit.key import Subjects
from rome_engine.edit.methods.memit import Memit
from rome_engine.edit.solve import Ridge
from rome_engine.edit.spread import SpreadConfig
from rome_engine.edit.value import ValueConfig
from rome_engine.errors import EditError, StatisticsError
from rome_engine.facts import Fact
from rome_engine.model.hooks import Trace
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment
from tests import tiny
from tests.edit.examples import FACT, bit_equal, random_moment, state

FACTS = (
    FACT,
    Fact("The capital of {} is", "France", target_new="London"),
    Fact("LeBron James plays {} in", "basketball", target_new="Seattle"),
)
LAYERS = (0, 1, 2)
METHODS = ("memit", "memit-history", "pmet", "alphaedit")
OWN = {"memit": {"weight": 0.01}, "alphaedit": {"l2": 0.01, "threshold": 10.0}}


def method_of(name: str) -> ClosedForm:
    found = editor(name)
    assert isinstance(found, ClosedForm)
    return found


def config_of(name: str, model: LanguageModel, **changed: Any) -> Any:
    own = OWN["alphaedit" if name == "alphaedit" else "memit"]
    settings = {"layers": LAYERS, "value": ValueConfig(steps=5, clamp=0.7), "openings": ("The", "You"), "length": 4}
    return replace(editor(name).default(model), **{**settings, **own, **changed})


def moments_of(model: LanguageModel, seed: int = 0) -> dict[int, SecondMoment]:
    return {layer: random_moment(model.architecture.d_mlp, seed + layer) for layer in LAYERS}


def formula(name: str, keys: Tensor, residuals: Tensor, moment: Tensor, history: Tensor | float = 0.0) -> Tensor:
    """Δ as METHODS states it, inverted outright; keys and residuals a column a fact."""
    inner = keys @ keys.T + history
    if name == "alphaedit":
        values, vectors = torch.linalg.eigh(moment)
        chosen = vectors[:, values < OWN["alphaedit"]["threshold"]]
        assert 0 < chosen.shape[1] < len(values)
        projector = chosen @ chosen.T
        equation = projector @ inner + OWN["alphaedit"]["l2"] * torch.eye(len(inner), dtype=torch.float64)
        return torch.linalg.solve(equation, projector @ keys @ residuals.T).T
    return residuals @ keys.T @ torch.linalg.inv(OWN["memit"]["weight"] * moment + inner)


def check_layers(
    name: str, model: LanguageModel, targets: Targets, edit: Edit, history: dict[int, Tensor] | None = None
) -> None:
    """Each layer against the formula, on the model that has the layers below it edited."""
    moments, subjects = moments_of(model), Subjects(model, targets.facts, targets.contexts)
    share = math.sqrt if name == "pmet" else float
    for done, layer in enumerate(LAYERS):
        below = Edit({at: edit.layers[at] for at in LAYERS[:done]}, edit.provenance)
        with below.applied(model):
            keys, top = subjects.mean(layer).keys.double().T, subjects.bare(LAYERS[-1])
        residuals = (targets.wanted() - (top.values if name == "pmet" else top.hidden).double()).T
        past = 0.0 if history is None else history[layer]
        wanted = formula(name, keys, residuals / share(len(LAYERS) - done), moments[layer].matrix(), past)
        assert (edit.delta(layer).double() - wanted).norm() < 1e-4 * wanted.norm()
        assert torch.linalg.matrix_rank(edit.delta(layer)) <= len(targets.facts)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_every_layer_solves_its_share_and_fit_leaves_the_model_alone(family: str, name: str) -> None:
    model = tiny.language_model(family)
    before = state(model)
    config, method = config_of(name, model), method_of(name)
    targets = method.search(model, FACTS, config)
    solution = method.solve(model, targets, moments_of(model), config)
    assert bit_equal(model, before)
    edit = solution.edit
    assert list(edit.layers) == list(LAYERS) and edit.rank == len(FACTS)
    check_layers(name, model, targets, edit)
    about = edit.provenance
    assert about.method == name and about.config["layers"] == list(LAYERS) and len(about.losses) == len(FACTS)
    assert all(about.solver[str(layer)]["residual"] < 1e-10 for layer in LAYERS)


@pytest.mark.parametrize("name", ["memit-history", "alphaedit"])
def test_the_history_of_earlier_edits_holds_an_update_back(name: str) -> None:
    model, method = tiny.language_model("llama"), method_of(name)
    config, moments = config_of(name, model), moments_of(model)
    first = method.solve(model, method.search(model, FACTS[:2], config), moments, config)
    history = extended({}, first.keys)
    targets = method.search(model, FACTS[2:], config)
    second = method.solve(model, targets, moments, config, history=history)
    check_layers(name, model, targets, second.edit, history)
    alone = method.solve(model, targets, moments, config)
    for layer in LAYERS:
        held, free = (edit.delta(layer) @ first.keys[layer].T for edit in (second.edit, alone.edit))
        assert held.norm() < 0.5 * free.norm()
    grown = extended(history, second.keys)
    both = torch.cat([first.keys[0], second.keys[0]]).double()
    assert torch.allclose(grown[0], both.T @ both, rtol=1e-12)
    assert torch.equal(history[0], extended({}, first.keys)[0])  # the one before is left as it was


def test_a_history_however_large_does_not_make_a_moment_of_few_bits_singular(tmp_path: Path) -> None:
    model, method = tiny.language_model("llama"), method_of("memit-history")
    assert isinstance(method, Memit)
    random_moment(tiny.D_MLP).save(tmp_path / "m.safetensors", dtype="float16")
    moment = SecondMoment.load(tmp_path / "m.safetensors")
    key = torch.randn(tiny.D_MLP, 1, dtype=torch.float64)
    history = 1e6 * float(moment.matrix().trace()) * key @ key.T  # its pivots lie far below float16's share of it
    config = config_of("memit-history", model)
    ridge = method.ridge(moment, config, history)
    torch.testing.assert_close(ridge.factor @ ridge.factor.T, config.weight * moment.matrix() + history)
    few = SecondMoment(tiny.D_MLP)
    few.update(torch.randn(5, tiny.D_MLP))
    with pytest.raises(StatisticsError, match="singular"):
        method.ridge(few, config, torch.eye(tiny.D_MLP).double())


def test_memit_with_history_and_without_any_edit_before_is_memit() -> None:
    model = tiny.language_model("llama")
    moments, config = moments_of(model), config_of("memit", model)
    plain = editor("memit").fit(model, FACTS, moments, config)
    method = method_of("memit-history")
    for history in (None, {}, {layer: torch.zeros(tiny.D_MLP, tiny.D_MLP).double() for layer in LAYERS}):
        other = method.fit(model, FACTS, moments, config, history=history)
        assert all(torch.allclose(other.delta(at), plain.delta(at), rtol=1e-3, atol=1e-4) for at in LAYERS)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_where_other_keys_are_held_still_the_residual_shrinks_by_shares_and_targets_become_likelier(
    family: str,
) -> None:
    model, method = tiny.language_model(family), method_of("memit")
    config = config_of("memit", model, weight=1.0, openings=(), value=ValueConfig(15, 0.2, 0.0, 3.0, 0.0))
    moments = _moments_of_other_tokens(model)
    targets = method.search(model, FACTS, config)
    edit = method.solve(model, targets, moments, config).edit
    subjects = Subjects(model, FACTS, targets.contexts)

    def missing(layers: int) -> Tensor:
        part = Edit({at: edit.layers[at] for at in LAYERS[:layers]}, edit.provenance)
        with part.applied(model):
            return (targets.wanted() - subjects.bare(LAYERS[-1]).hidden.double()).norm(dim=1)

    left = [missing(layers) for layers in range(4)]
    assert bool((left[3] < 0.05 * left[0]).all())
    # The last layer takes all that is left, the first a share of it: by itself it cannot do.
    assert bool((left[1] > 0.3 * left[0]).all())
    before = [_log_probability(model, fact) for fact in FACTS]
    with edit.applied(model):
        after = [_log_probability(model, fact) for fact in FACTS]
    for was, now, value in zip(before, after, targets.values, strict=True):
        searched = value.losses[0] - value.losses[-1]
        assert now - was > 0.5 * searched > 0.05


def _moments_of_other_tokens(model: LanguageModel) -> dict[int, SecondMoment]:
    """Such that nothing may happen to the keys of the facts' other tokens."""
    found = {layer: SecondMoment(tiny.D_MLP) for layer in LAYERS}
    for layer, moment in found.items():
        moment.update(1e-3 * torch.eye(tiny.D_MLP))
        for fact in FACTS:
            prompt = model.tokenize(fact.prompt, fact.subject)
            ids = (*prompt.input_ids, *model.target_ids(fact.text, str(fact.target_new))[:-1])
            with Trace(model.down_projection(layer), retain_input=True) as down, torch.no_grad():
                model.module(input_ids=torch.tensor([ids]), use_cache=False)
            keys = down.input.reshape(len(ids), -1)
            moment.update(100 * torch.cat([keys[: prompt.last_subject_token], keys[prompt.last_subject_token + 1 :]]))
    return found


def _log_probability(model: LanguageModel, fact: Fact) -> float:
    target = model.target_ids(fact.text, str(fact.target_new))
    return model.target_log_probability(model.tokenize(fact.prompt, fact.subject), target) / len(target)


# What is raised in the middle


@pytest.mark.parametrize("when", ["in the search", "at the second layer", "by the guard"])
def test_whatever_is_raised_leaves_the_model_alone(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny.language_model("gpt2"), []
    before, config = state(model), config_of("memit", model)
    update = Ridge.update

    def interrupted(self: Ridge, *given: Any) -> Any:
        calls.append(not bit_equal(model, before))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return update(self, *given)

    def tell(step: int, _steps: int, _loss: float) -> None:
        if step >= 2 and when == "in the search":
            raise KeyboardInterrupt

    if when == "at the second layer":
        monkeypatch.setattr(Ridge, "update", interrupted)
    if when == "by the guard":
        config = replace(config, guard=Guard(max_norm=1e-9, policy="refuse"))
    with pytest.raises(EditError if when == "by the guard" else KeyboardInterrupt):
        editor("memit").fit(model, FACTS, moments_of(model), config, tell)
    assert bit_equal(model, before)
    if when == "at the second layer":
        assert calls == [False, True, True]  # the layers below were in force


def test_an_edit_on_top_of_another_is_fitted_on_the_edited_model_and_leaves_that_in_force() -> None:
    model, config = tiny.language_model("llama"), config_of("memit", tiny.shared("llama"))
    first = editor("memit").fit(model, FACTS[:1], moments_of(model), config)
    unedited = state(model)
    with first.applied(model):
        edited = state(model)
        targets = method_of("memit").search(model, FACTS[1:], config)
        second = method_of("memit").solve(model, targets, moments_of(model), config).edit
        assert bit_equal(model, edited)
        check_layers("memit", model, targets, second)
        with second.applied(model):
            pass
        assert bit_equal(model, edited)
    assert bit_equal(model, unedited)


@pytest.mark.parametrize("name", METHODS)
def test_two_models_edited_in_turn_do_not_influence_each_other(name: str) -> None:
    """Trap 4: no projector, history or context outlives its edit."""
    one, other = tiny.language_model("llama"), tiny.language_model("llama", seed=3)

    def deltas(model: LanguageModel, seed: int) -> list[Tensor]:
        edit = editor(name).fit(model, FACTS, moments_of(model, seed), config_of(name, model))
        return [edit.delta(layer) for layer in LAYERS]

    alone = deltas(one, 0)
    between = deltas(other, 50)
    assert all(torch.equal(now, then) for now, then in zip(deltas(one, 0), alone, strict=True))
    assert not any(torch.allclose(now, then, rtol=0.1) for now, then in zip(between, alone, strict=True))


def test_each_fact_by_itself_and_all_in_one_call() -> None:
    model, config = tiny.language_model("gpt2"), config_of("memit", tiny.shared("gpt2"))
    before, moments = state(model), moments_of(model)
    edits = method_of("memit").fit_each(model, FACTS[:2], moments, config)
    assert bit_equal(model, before)
    for fact, edit in zip(FACTS[:2], edits, strict=True):
        alone = edit_facts(model, [fact], moments=moments, config=config)
        assert edit.rank == alone.rank == 1 and alone.provenance.method == "memit"
        for layer in LAYERS:
            assert (edit.delta(layer) - alone.delta(layer)).norm() < 1e-3 * alone.delta(layer).norm()


# Settings, and what is refused


def test_methods_that_differ_in_their_algebra_only_ask_for_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what was searched for one is found again for another."""
    model, asked = tiny.language_model("llama"), []

    def note(
        _model: Any, facts: Any, contexts: Any, layer: int, config: Any, *, place: str, **_others: Any
    ) -> list[Any]:
        asked.append((tuple(facts), contexts, layer, config, place))
        return []

    monkeypatch.setattr("rome_engine.edit.closed_form.values", note)
    for name in ("rome", "r-rome", "emmet", "memit", "memit-history", "alphaedit"):
        method = method_of(name)
        method.search(model, FACTS, method.default(model))
    assert asked[0] == asked[1] == asked[2]
    assert asked[3] == asked[4] == asked[5]
    assert asked[0] != asked[3]


def test_a_named_layer_is_the_last_one() -> None:
    model = tiny.shared("llama")
    for name in METHODS:
        method = editor(name)
        assert method.layers(method.default(model, 3))[-1] == 3
        assert method.layers(method.default(model, 0)) == (0,)
        with pytest.raises(EditError, match="out of range"):
            method.default(model, 4)
        assert isinstance(method.default(model), SpreadConfig)


def test_what_does_not_fit_together_is_refused() -> None:
    model, method = tiny.language_model("llama"), method_of("memit")
    moments, config = moments_of(model), config_of("memit", model)
    with pytest.raises(EditError, match="at least one fact, not 0"):
        method.fit(model, (), moments, config)
    with pytest.raises(EditError, match="second moments of layer 1 are needed"):  # trap 2: never C = I in silence
        method.fit(model, FACTS, {0: moments[0], 2: moments[2]}, config)
    with pytest.raises(EditError, match="keys of 9 numbers, this model's have 48"):
        method.fit(model, FACTS, {**moments, 1: random_moment(9)}, config)
    for layers in ((), (1, 0), (1, 1)):
        with pytest.raises(EditError, match="once each, upwards"):
            method.fit(model, FACTS, moments, replace(config, layers=layers))
    with pytest.raises(EditError, match="out of range"):
        method.fit(model, FACTS, {**moments, 9: moments[0]}, replace(config, layers=(0, 9)))
    history = {0: torch.zeros(tiny.D_MLP, tiny.D_MLP).double()}
    with pytest.raises(EditError, match="memit keeps no history"):
        method.fit(model, FACTS, moments, config, history=history)
    with pytest.raises(EditError, match="history lacks layer 1"):
        method_of("memit-history").fit(model, FACTS, moments, config, history=history)
    with pytest.raises(EditError, match="no direction is free: raise the threshold"):
        alphaedit = config_of("alphaedit", model, threshold=1e-9)
        editor("alphaedit").fit(model, FACTS, moments, alphaedit)
    normed = tiny.language_model("gemma2")
    with pytest.raises(EditError, match="norms what an MLP puts out"):
        method.fit(normed, FACTS, moments_of(normed), config)
    editor("pmet").fit(normed, FACTS, moments_of(normed), config_of("pmet", normed))
