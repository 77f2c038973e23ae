"""Fine-tuning as both baselines do it: the loss that is recorded is the model's, and the model is left alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_engine.edit import Edit
from rome_engine.edit.methods.finetune import FineTune
from rome_engine.edit.methods.lora import Lora
from rome_engine.edit.trained import Trained
from rome_engine.edit.tuning import TuningConfig
from rome_engine.errors import EditError, PromptTooLongError, TargetError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests import split, tiny
from tests.edit.examples import AT_START, FACT, LAYER, bit_equal, random_edit, state

BOTH = (FineTune(), Lora())
both = pytest.mark.parametrize("method", BOTH, ids=lambda method: method.name)
families = pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2", "opt"])


def trained(
    model: LanguageModel, method: Trained, *facts: Fact, seed: int = 0, progress: Any = None, **tuning: Any
) -> Edit:
    """An edit of one layer in few epochs."""
    settings = TuningConfig(**{"epochs": 3, "learning_rate": 3e-3, **tuning})
    config = replace(method.default(model, LAYER), tuning=settings, seed=seed)
    if isinstance(method, FineTune):
        config = replace(config, limit=5e-3)
    return method.fit(model, facts or (FACT,), {}, config, progress)


def loss(model: LanguageModel, fact: Fact) -> float:
    """The mean NLL of the target's tokens, measured with nothing of what is tested."""
    target = model.target_ids(fact.text, fact.target_new or "")
    return -model.target_log_probability(model.tokenize(fact.text), target) / len(target)


def traces(model: LanguageModel) -> list[Any]:
    """Everything about a model's modules that training could leave behind."""
    module = model.module
    return [
        [
            (name, id(part), type(part), sorted(vars(part)), len(part._forward_hooks), len(part._forward_pre_hooks))
            for name, part in module.named_modules()
        ],
        [(name, id(weight), weight.requires_grad, weight.grad) for name, weight in module.named_parameters()],
        [part.training for part in module.modules()],
        module.config.to_dict(),
    ]


@both
@families
def test_each_recorded_loss_is_what_the_edit_of_as_many_steps_brings_about(family: str, method: Trained) -> None:
    model = tiny.language_model(family)
    before = loss(model, FACT)
    (losses,) = trained(model, method).provenance.losses
    assert losses[0] == pytest.approx(before, rel=1e-4)
    for epochs in (1, 2):
        edit = trained(model, method, epochs=epochs)
        with edit.applied(model):
            assert loss(model, FACT) == pytest.approx(losses[epochs], rel=1e-4)
    assert losses[2] < losses[1] < losses[0] - 1e-3
    assert loss(model, FACT) == before


@both
@families
def test_fit_leaves_the_model_and_the_random_state_alone(family: str, method: Trained) -> None:
    model = tiny.language_model(family)
    next(model.module.parameters()).requires_grad_(True)  # whoever wants it so finds it so
    torch.manual_seed(1)
    before, seen, random = state(model), traces(model), torch.get_rng_state()
    with torch.no_grad():
        trained(model, method)
    assert bit_equal(model, before) and traces(model) == seen
    assert torch.equal(torch.get_rng_state(), random)


@both
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupt_leaves_it_alone_too(method: Trained, error: type[BaseException]) -> None:
    model = tiny.language_model("gpt2")
    torch.manual_seed(1)
    before, seen, random = state(model), traces(model), torch.get_rng_state()

    def interrupt(step: int, _steps: int, _loss: float) -> None:
        if step == 2:
            raise error

    with pytest.raises(error):
        trained(model, method, progress=interrupt)
    assert bit_equal(model, before) and traces(model) == seen
    assert torch.equal(torch.get_rng_state(), random)


@both
def test_the_same_seed_gives_the_same_edit_and_another_one_another(method: Trained) -> None:
    model = tiny.language_model("llama")
    torch.manual_seed(1)
    one = trained(model, method, FACT, AT_START, batch_size=1)
    torch.manual_seed(2)
    same = trained(model, method, FACT, AT_START, batch_size=1)
    others = [trained(model, method, FACT, AT_START, batch_size=1, seed=seed) for seed in range(1, 4)]
    assert torch.equal(one.delta(LAYER), same.delta(LAYER))
    assert not all(torch.equal(one.delta(LAYER), other.delta(LAYER)) for other in others)


@both
def test_facts_of_one_batch_know_nothing_of_each_other_before_the_first_step(method: Trained) -> None:
    """Padding and the order of rows do not matter; then all the facts are learnt."""
    model = tiny.language_model("llama")
    edit = trained(model, method, FACT, AT_START)
    for fact, losses in zip((FACT, AT_START), edit.provenance.losses, strict=True):
        assert losses[0] == pytest.approx(loss(model, fact), rel=1e-4)
        with edit.applied(model):
            assert loss(model, fact) < losses[0] - 1e-3
    assert [record["subject"] for record in edit.provenance.facts] == [FACT.subject, AT_START.subject]


@both
def test_progress_counts_batches(method: Trained) -> None:
    model = tiny.language_model("llama")
    told: list[tuple[int, int, float]] = []
    edit = trained(model, method, FACT, AT_START, batch_size=1, progress=lambda *step: told.append(step))
    assert [step[:2] for step in told] == [(step, 6) for step in range(1, 7)]
    assert sorted(step[2] for step in told) == sorted(sum(edit.provenance.losses, ()))


@both
def test_a_batch_below_the_stop_loss_makes_no_step(method: Trained) -> None:
    model = tiny.language_model("llama")
    low, high = sorted((FACT, AT_START), key=lambda fact: loss(model, fact))
    between = (loss(model, low) + loss(model, high)) / 2

    still = trained(model, method, low, stop_loss=between)
    assert still.provenance.stopped_early and len(still.provenance.losses[0]) == 1
    assert not still.delta(LAYER).any()
    both = trained(model, method, low, high, stop_loss=between, batch_size=1, epochs=1)
    assert torch.equal(both.delta(LAYER), trained(model, method, high, epochs=1).delta(LAYER))
    assert both.delta(LAYER).any() and not both.provenance.stopped_early


@both
def test_the_record_says_what_ran_and_survives_saving(method: Trained, tmp_path: Path) -> None:
    model = tiny.language_model("gpt2")
    edit = trained(model, method)
    record = edit.provenance
    assert (record.method, record.model_hash, record.dtype) == (method.name, model.weight_hash(), "float32")
    assert record.config["tuning"]["epochs"] == 3 and record.moments == {} and set(record.seconds) == {"tuning", "hash"}
    edit.save(tmp_path / "edit.safetensors")
    again = Edit.load(tmp_path / "edit.safetensors")
    assert again.provenance == record and torch.equal(again.delta(LAYER), edit.delta(LAYER))
    assert method.layers(method.default(model)) == ()


@both
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_split_over_devices_gives_the_same_edit(family: str, method: Trained, tmp_path: Path) -> None:
    plain, parted = split.loaded(family, tmp_path)
    layer = 2
    config = replace(method.default(plain, layer), tuning=TuningConfig(epochs=2))
    before = parted.weight_hash()
    edit = method.fit(parted, [FACT], {}, config)
    assert torch.equal(edit.delta(layer), method.fit(plain, [FACT], {}, config).delta(layer))
    assert parted.weight_hash() == before
    with pytest.raises(EditError, match="layer 1 is offloaded"):
        method.fit(parted, [FACT], {}, method.default(parted, 1))


@both
def test_an_edit_made_on_top_of_one_in_force_fits_what_it_was_made_on(method: Trained) -> None:
    model = tiny.language_model("llama")
    before = state(model)
    with random_edit(model).applied(model):
        edit = trained(model, method)
        assert edit.provenance.losses[0][0] == pytest.approx(loss(model, FACT), rel=1e-4)
        with edit.applied(model):
            assert loss(model, FACT) < edit.provenance.losses[0][0]
    assert bit_equal(model, before)


@both
def test_bad_facts_layers_and_settings_are_refused(method: Trained) -> None:
    model = tiny.language_model("llama")
    with pytest.raises(EditError, match="no fact"):
        method.fit(model, [], {}, method.default(model))
    for layer in (tiny.LAYERS, -1):
        with pytest.raises(EditError, match=f"layer {layer} is out of range"):
            method.default(model, layer)
    with pytest.raises(EditError, match="layer 9 is out of range"):
        method.fit(model, [FACT], {}, replace(method.default(model), **beyond(method)))
    with pytest.raises(TargetError, match="empty"):
        trained(model, method, Fact.of(FACT.text, FACT.subject))
    with pytest.raises(PromptTooLongError):
        trained(model, method, Fact("word " * 200 + "{} is", "Rome", target_new="Italy"))
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}):
        with pytest.raises(EditError, match="must be at least 1"):
            TuningConfig(**wrong)


def beyond(method: Trained) -> dict[str, Any]:
    return {"layer": 9} if isinstance(method, FineTune) else {"layers": (9,)}


@both
def test_a_target_that_is_already_the_answer_is_refused(method: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    answer = model.generate([model.tokenize(AT_START.text)], 1, min_tokens=1)[0]
    monkeypatch.setattr(model, "target_ids", lambda text, _target: answer if text == AT_START.text else (7,))
    with pytest.raises(TargetError, match="'Italy' is already the answer"):
        trained(model, method, AT_START)
    assert trained(model, method, FACT, AT_START).layers  # among others it is only told


@both
def test_numbers_that_are_not_finite_are_refused(method: Trained) -> None:
    model = tiny.language_model("llama")
    if isinstance(method, Lora):
        with pytest.raises(EditError, match="not all numbers are finite"):
            trained(model, method, learning_rate=1e30)
    model.weight(3)[0, 0] = math.nan
    with pytest.raises(EditError, match="'Rome, the capital' failed in epoch 1: the loss is nan"):
        trained(model, method)


@both
def test_the_guard_is_asked(method: Trained) -> None:
    model = tiny.language_model("llama")
    config = method.default(model, LAYER)
    strict = replace(config, guard=replace(config.guard, max_norm=1e-6, policy="refuse"))
    with pytest.raises(EditError, match="is large"):
        method.fit(model, [FACT], {}, strict)
    assert math.isfinite(method.fit(model, [FACT], {}, config).layers[LAYER].delta_norm)
