"""An edit beside the weights of a quantised base of its model does there what it does in the model itself."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rome_engine.edit import Edit, edit_fact
from rome_engine.edit.attached import attached
from rome_engine.errors import WrongWeightsError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import FACT, random_edit


class Int8Linear(nn.Module):
    """A projection whose weight is kept as int8 with one scale an output, whichever way round it was."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.scale, self.bias)


def int8_by_hand(model: LanguageModel) -> Any:
    """A copy of the model with each down-projection in int8."""
    module = copy.deepcopy(model.module)
    for layer in range(model.n_layers):
        path = model.architecture.path(layer, model.architecture.down_projection)
        bias = getattr(model.module.get_submodule(path), "bias", None)
        module.set_submodule(path, Int8Linear(model.weight(layer), bias))
    return module


def int8_by_torch(model: LanguageModel) -> Any:
    """A copy of the model with every Linear in int8 and its inputs quantised as they come."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model.module), {nn.Linear}, dtype=torch.qint8)


def answer(module: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = module(input_ids=ids, use_cache=False).logits[0, -1]
    return logits


def prompt(model: LanguageModel) -> Tensor:
    return model.ids(model.tokenize(FACT.prompt, FACT.subject))


@pytest.mark.parametrize(
    ("family", "quantised", "near"),
    [("llama", int8_by_hand, 0.05), ("gpt2", int8_by_hand, 0.05), ("llama", int8_by_torch, 0.2)],
)
def test_the_effect_is_that_in_the_model_itself(family: str, quantised: Any, near: float) -> None:
    model = tiny.language_model(family)
    ids, edit = prompt(model), random_edit(model, (0, 1, 2, 3), seed=1, rank=6)
    plain = answer(model.module, ids)
    with edit.applied(model):
        changed = answer(model.module, ids)
    effect, target = changed - plain, int(changed.argmax())
    base = quantised(model)
    before = answer(base, ids)
    assert not torch.equal(before, plain)
    assert int(before.argmax()) != target
    with attached(base, edit) as edited:
        assert edited is base
        after = answer(base, ids)
    assert int(after.argmax()) == target
    assert ((after - before) - effect).norm() < near * effect.norm()
    assert torch.equal(answer(base, ids), before)


def test_several_layers() -> None:
    model = tiny.language_model("llama")
    ids, edit = prompt(model), random_edit(model, (0, 2, 3), rank=3)
    with edit.applied(model):
        expected = answer(model.module, ids)
    with attached(int8_by_hand(model), edit) as base:
        assert (answer(base, ids) - expected).norm() < 0.05 * expected.norm()


@pytest.mark.embedded
def test_the_target_becomes_the_answer_of_the_real_model_in_int8(embedded_model: LanguageModel) -> None:
    fact = Fact.of("The Eiffel Tower is located in the city of", "The Eiffel Tower", target_new="Rome")
    edit = edit_fact(embedded_model, fact, layer=8)  # at 6 the inputs' quantisation drowns it: p = .11
    (target,) = embedded_model.target_ids(fact.text, "Rome")
    ids = embedded_model.ids(embedded_model.tokenize(fact.text))
    base = int8_by_torch(embedded_model)
    assert int(answer(base, ids).argmax()) != target
    with attached(base, edit):
        assert answer(base, ids).softmax(-1)[target] > 0.5


def refused(module: Any, edit: Edit, said: str) -> None:
    with pytest.raises(WrongWeightsError, match=said), attached(module, edit):
        pass
    assert not any(part._forward_hooks for part in module.modules())


def test_other_models_are_refused() -> None:
    model = tiny.language_model("llama")
    edit = random_edit(model, (1, 3))
    double = tiny.language_model("llama")
    double.weight(3).mul_(1.1)
    refused(int8_by_hand(double), edit, r"other weights: ‖W‖ of model.layers.3.mlp.down_proj is about")
    refused(
        int8_by_hand(tiny.language_model("llama", num_hidden_layers=2)),
        edit,
        "model.layers.3.*LlamaForCausalLM has not",
    )
    refused(int8_by_hand(tiny.language_model("llama", intermediate_size=40)), edit, "takes no input of 48")
    wider = tiny.language_model("llama", hidden_size=40)
    refused(int8_by_hand(wider), edit, "puts out 40")
    with attached(int8_by_hand(model), edit):
        pass
