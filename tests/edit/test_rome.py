"""ROME and R-ROME from fact to edit, on tiny models; what they refuse; how methods are found."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from rome_engine.edit import edit_fact, editor, editors
from rome_engine.edit.context import sample
from rome_engine.edit.defaults import rome_default
from rome_engine.edit.editor import Editor
from rome_engine.edit.guard import Guard
from rome_engine.edit.key import keys
from rome_engine.edit.methods.rome import RomeConfig
from rome_engine.edit.value import ValueConfig
from rome_engine.errors import EditError, PromptTooLongError, TargetError
from rome_engine.facts import Fact
from rome_engine.model.hooks import Trace
from tests import tiny
from tests.edit.examples import FACT, LAYER, bit_equal, fitted, random_moment, state

METHODS = ("rome", "r-rome")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "olmo2", "falcon", "opt"])
def test_fit_leaves_the_model_alone_and_gives_a_rank_one_edit(family: str, method: str) -> None:
    model = tiny.language_model(family)
    before = state(model)
    edit = fitted(model, method)
    assert bit_equal(model, before)
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    change = edit.layers[LAYER]
    assert edit.rank == 1
    assert change.delta_norm == pytest.approx(float(edit.delta(LAYER).norm()), rel=1e-4)
    assert change.weight_norm == pytest.approx(float(model.weight(LAYER).norm()), rel=1e-4)
    if method == "r-rome":
        assert change.relative_denominator == pytest.approx(1.0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2"])
def test_the_edited_layer_gives_the_searched_value_at_the_bare_prompt(family: str) -> None:
    """ROME's promise, kept by the model itself: where the search put h₀ + δ in, the edited weight now gives it."""
    model = tiny.language_model(family)
    steps: list[float] = []
    edit = fitted(model, "rome", progress=lambda _step, _steps, loss: steps.append(loss))
    assert edit.provenance.losses == (tuple(steps),)
    prompt = model.tokenize(FACT.prompt, FACT.subject)

    def at_subject() -> torch.Tensor:
        with Trace(model.down_projection(LAYER), clone=True) as down, torch.no_grad():
            model.module(input_ids=model.ids(prompt), use_cache=False)
        value: torch.Tensor = down.output[0, prompt.last_subject_token]
        return value

    plain = at_subject()
    contexts = sample(model, lengths=(3, 5))
    bare = keys(model, FACT, contexts, [LAYER])[LAYER][0]
    with edit.applied(model):
        moved = at_subject() - plain
    assert torch.allclose(moved, edit.delta(LAYER) @ bare, rtol=1e-3, atol=1e-4 * float(moved.abs().max()))
    clamped = ValueConfig().clamp * plain.norm()
    assert 0 < moved.norm() <= clamped * 1.001


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_edit_and_the_record_says_how(method: str) -> None:
    model = tiny.language_model("llama")
    edit, again = fitted(model, method), fitted(model, method)
    assert torch.equal(edit.delta(LAYER), again.delta(LAYER))
    about = edit.provenance
    assert about.method == method and about.model == "llama" and about.model_hash == model.weight_hash()
    assert about.config["layer"] == LAYER and about.config["value"]["steps"] == 4
    assert about.facts == (FACT.to_dict(),) and len(about.losses[0]) == 4
    assert set(about.seconds) == {"contexts", "keys", "value", "solve", "hash"}
    assert about.contexts == sample(model, lengths=(3, 5)).hash
    json.dumps(about.to_dict())


def test_rome_and_r_rome_differ_only_where_contexts_are_more_than_the_bare_prompt() -> None:
    model, moments = tiny.language_model("llama"), {LAYER: random_moment(tiny.D_MLP)}

    def deltas(lengths: tuple[int, ...]) -> list[torch.Tensor]:
        config = RomeConfig(LAYER, ValueConfig(steps=3), lengths=lengths)
        return [editor(method).fit(model, [FACT], moments, config).delta(LAYER) for method in METHODS]

    one, other = deltas(())
    assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)
    one, other = deltas((3, 5))
    assert not torch.allclose(one, other, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupt_leaves_the_model_alone(error: type[BaseException]) -> None:
    model = tiny.language_model("gpt2")
    before = state(model)

    def interrupt(step: int, _steps: int, _loss: float) -> None:
        if step == 2:
            raise error

    with pytest.raises(error):
        fitted(model, progress=interrupt)
    assert bit_equal(model, before)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():  # no hook stayed behind
        assert torch.equal(model.module(input_ids=ids).logits, tiny.shared("gpt2").module(input_ids=ids).logits)


def test_the_edit_makes_the_target_likelier() -> None:
    model = tiny.language_model("llama")
    edit = fitted(model, "rome", steps=20, stop_loss=0.5, decay=0.0, clamp=20.0)
    prompt = model.tokenize(FACT.prompt, FACT.subject)
    target = model.target_ids(FACT.text, str(FACT.target_new))
    plain = model.target_log_probability(prompt, target)
    with edit.applied(model):
        assert model.target_log_probability(prompt, target) > plain + 1


def test_bad_facts_layers_and_moments_are_refused() -> None:
    model = tiny.language_model("llama")
    moments = {LAYER: random_moment(tiny.D_MLP)}
    method = editor("r-rome")

    def fit(*facts: Fact, layer: int = LAYER) -> None:
        method.fit(model, facts, moments, RomeConfig(layer, lengths=(3,)))

    with pytest.raises(TargetError, match="empty"):
        fit(Fact.of(FACT.text, FACT.subject))
    with pytest.raises(TargetError, match="empty"):
        fit(Fact.of(FACT.text, FACT.subject, target_new=" "))
    with pytest.raises(TargetError, match="tokenises to nothing"):
        fit(Fact.of(FACT.text, FACT.subject, target_new="<s>"))
    with pytest.raises(EditError, match="one fact at a time, not 0"):
        fit()
    with pytest.raises(EditError, match="one fact at a time, not 2"):
        fit(FACT, FACT)
    for layer in (40, tiny.LAYERS, -1):
        with pytest.raises(EditError, match=f"layer {layer} is out of range: this model has layers 0 to 3"):
            fit(FACT, layer=layer)
        with pytest.raises(EditError, match="out of range"):
            method.default(model, layer)
    with pytest.raises(EditError, match="second moments of layer 2"):
        fit(FACT, layer=2)
    with pytest.raises(PromptTooLongError):
        fit(Fact("word " * 200 + "{} is", "Rome", target_new="Italy"))


def test_a_target_that_is_already_the_answer_is_refused() -> None:
    model = tiny.language_model("llama")
    prompt = model.tokenize(FACT.prompt, FACT.subject)
    answer = model.text(model.generate([prompt], 1)[0]).strip()
    if model.target_ids(FACT.text, answer) != model.generate([prompt], 1)[0]:
        pytest.skip("the random model's answer is not a word of its own")
    with pytest.raises(TargetError, match="already the answer"):
        edit_fact(model, FACT.with_target(answer))


def test_edit_fact_takes_given_moments_and_the_default_layer() -> None:
    model = tiny.language_model("gpt2")
    layer = rome_default(model.architecture).layer
    edit = edit_fact(
        model,
        FACT,
        moments={layer: random_moment(tiny.D_MLP)},
        config=RomeConfig(layer, ValueConfig(steps=2), lengths=(3,)),
    )
    assert list(edit.layers) == [layer] and edit.provenance.method == "r-rome"
    with pytest.raises(EditError, match="out of range"):
        edit_fact(model, FACT, layer=40)
    with pytest.raises(EditError, match="there is no method 'rom': known are"):
        edit_fact(model, FACT, method="rom")


def test_the_guard_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    model, moments = tiny.language_model("llama"), {LAYER: random_moment(tiny.D_MLP)}

    def fit(guard: Guard) -> None:
        config = RomeConfig(LAYER, ValueConfig(steps=3), lengths=(3,), guard=guard)
        editor("r-rome").fit(model, [FACT], moments, config)

    with pytest.raises(EditError, match="is large"):
        fit(Guard(max_norm=1e-6, policy="refuse"))
    with pytest.raises(EditError, match="small denominator"):
        fit(Guard(min_denominator=1.5, policy="refuse"))
    with caplog.at_level(logging.WARNING, "rome_engine.edit.guard"):
        fit(Guard(max_norm=1e-6))
    assert "is large" in caplog.text


def test_methods_are_found_by_their_files() -> None:
    found = editors()
    assert set(METHODS) <= set(found)
    assert all(isinstance(method, Editor) and method.name == name for name, method in found.items())


def test_a_model_nobody_published_a_layer_for_gets_one_by_its_depth() -> None:
    for family in tiny.FAMILIES:
        architecture = tiny.shared(family).architecture
        assert 0 <= rome_default(architecture).layer < architecture.n_layers
