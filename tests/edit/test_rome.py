"""ROME and R-ROME from fact to edit, on tiny models; what they refuse; how methods are found."""

from __future__ import annotations

import json
import logging

import pytest
import torch

from rome_engine.edit import edit_fact, editor, editors
from rome_engine.edit.closed_form import ClosedForm
from rome_engine.edit.context import sample
from rome_engine.edit.defaults import preset_for
from rome_engine.edit.editor import Editor
from rome_engine.edit.guard import Guard
from rome_engine.edit.key import keys
from rome_engine.edit.methods.rome import RomeConfig
from rome_engine.edit.value import ValueConfig
from rome_engine.errors import EditError, PromptTooLongError, TargetError
from rome_engine.facts import Fact
from rome_engine.model.hooks import Trace
from rome_engine.stats import SecondMoment
from tests import tiny
from tests.edit.examples import AT_START, FACT, LAYER, bit_equal, fitted, random_moment, state

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


@pytest.mark.parametrize(
    ("family", "changed"), [("gpt2", {}), ("gpt2", {"n_inner": tiny.D_MODEL}), ("llama", {}), ("olmo2", {})]
)
def test_the_edited_layer_gives_the_searched_value_at_the_bare_prompt(family: str, changed: dict[str, int]) -> None:
    """ROME's promise, kept by the model itself: where the search put h₀ + δ in, the edited weight now gives it.

    Trap 10: also where the shape of a Conv1D's weight does not tell which side is which.
    """
    model = tiny.language_model(family, **changed)
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


@pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2", "gptj"])
def test_the_edited_model_reaches_the_searched_loss(family: str) -> None:
    """With the prompt's other keys held still by C, what the search promised is what the edited weights do."""
    model = tiny.language_model(family)
    prompt = model.tokenize(FACT.prompt, FACT.subject)
    target = model.target_ids(FACT.text, str(FACT.target_new))
    ids = torch.tensor([[*prompt.input_ids, *target[:-1]]])
    with Trace(model.down_projection(LAYER), retain_input=True) as down, torch.no_grad():
        model.module(input_ids=ids, use_cache=False)
    others = torch.cat([down.input[0, : prompt.last_subject_token], down.input[0, prompt.last_subject_token + 1 :]])
    moment = SecondMoment(tiny.D_MLP)
    moment.update(torch.cat([1e4 * others.double(), torch.eye(tiny.D_MLP, dtype=torch.float64)]))
    config = RomeConfig(LAYER, ValueConfig(steps=15, decay=0.0, kl=0.0, clamp=50.0), lengths=())
    edit = editor("rome").fit(model, [FACT], {LAYER: moment}, config)
    losses = edit.provenance.losses[0]
    assert -model.target_log_probability(prompt, target) / len(target) == pytest.approx(losses[0], rel=1e-3)
    with edit.applied(model):
        assert -model.target_log_probability(prompt, target) / len(target) == pytest.approx(losses[-1], rel=2e-3)
    assert losses[-1] < losses[0] - 0.1


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


@pytest.mark.parametrize("method", METHODS)
def test_many_single_edits_are_those_of_each_fact_alone(method: str) -> None:
    model, moments = tiny.language_model("llama"), {LAYER: random_moment(tiny.D_MLP)}
    config = RomeConfig(LAYER, ValueConfig(steps=4, clamp=0.7), lengths=(3, 5))
    facts = [FACT, AT_START, *(Fact("The capital of {} is", name, target_new="London") for name in ("France", "Japan"))]
    before, chosen = state(model), editor(method)
    assert isinstance(chosen, ClosedForm)
    edits = chosen.fit_each(model, facts, moments, config)
    assert bit_equal(model, before)
    for fact, edit in zip(facts, edits, strict=True):
        alone = chosen.fit(model, [fact], moments, config)
        assert (edit.delta(LAYER) - alone.delta(LAYER)).norm() < 1e-3 * alone.delta(LAYER).norm()
        assert edit.provenance.facts == (fact.to_dict(),) == alone.provenance.facts
        assert edit.provenance.model_hash == alone.provenance.model_hash
        edit.check(model)
    assert not torch.allclose(edits[0].delta(LAYER), edits[1].delta(LAYER), rtol=0.1)
    assert chosen.fit_each(model, [], moments, config) == []


def test_a_target_that_is_already_the_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    prompt = model.tokenize(FACT.prompt, FACT.subject)
    answer = model.generate([prompt], 2, min_tokens=2)[0]
    monkeypatch.setattr(model, "target_ids", lambda _prompt, _target: answer)
    with pytest.raises(TargetError, match="'Rome, the capital' is already the answer"):
        edit_fact(model, FACT)
    monkeypatch.setattr(model, "target_ids", lambda _prompt, _target: (answer[0], answer[1] + 1))
    edit = edit_fact(model, FACT, moments={LAYER: random_moment(tiny.D_MLP)}, config=RomeConfig(LAYER, lengths=(3,)))
    assert list(edit.layers) == [LAYER]  # only its first token is the answer's


def test_edit_fact_takes_given_moments_and_the_default_layer() -> None:
    model = tiny.language_model("gpt2")
    (layer,) = preset_for(model, "rome").layers
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
        assert 0 <= preset_for(tiny.shared(family), "rome").layers[-1] < architecture.n_layers
