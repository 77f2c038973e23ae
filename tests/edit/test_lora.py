"""LoRA: rank and layers of what it finds, in which precision, and what is said without peft. See also test_tuning."""

from __future__ import annotations

import sys

import pytest
import torch

from rome_engine.edit import editor
from rome_engine.edit.methods.lora import Lora, LoraConfig
from rome_engine.edit.tuning import TuningConfig
from rome_engine.errors import EditError
from rome_engine.model.hooks import Trace
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import FACT

SHORT = TuningConfig(epochs=2, learning_rate=5e-3)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("family", ["gpt2", "llama", "falcon"])
def test_each_named_layer_gets_a_change_of_the_rank_and_no_other_does(family: str, rank: int) -> None:
    model = tiny.language_model(family)
    edit = Lora().fit(model, [FACT], {}, LoraConfig((0, 2), rank, tuning=SHORT))
    assert list(edit.layers) == [0, 2] and edit.rank == rank
    for layer, change in edit.layers.items():
        assert change.left.shape == (model.d_model, rank) and change.right.shape == (model.architecture.d_mlp, rank)
        assert torch.linalg.matrix_rank(edit.delta(layer)) == rank
        assert change.delta_norm == pytest.approx(float(edit.delta(layer).norm()), rel=1e-5)
        assert change.weight_norm == pytest.approx(float(model.weight(layer).norm()), rel=1e-4)


def test_the_change_scales_with_alpha_over_rank() -> None:
    """After one step B is ±learning rate in every entry, whatever α is, so Δ is α / r times a fixed matrix."""
    model = tiny.language_model("llama")
    once = TuningConfig(epochs=1)
    small, large = (Lora().fit(model, [FACT], {}, LoraConfig((1,), 4, alpha, once)).delta(1) for alpha in (4, 12))
    assert torch.allclose(3 * small, large, rtol=1e-2, atol=1e-3 * float(large.abs().max()))


def test_adapters_are_trained_in_float32_whatever_the_model_has() -> None:
    model = tiny.language_model("llama", dtype=torch.bfloat16)
    change = Lora().fit(model, [FACT], {}, LoraConfig((1,), tuning=SHORT)).layers[1]
    for factor in (change.left, change.right):
        assert factor.dtype == torch.float32 and not torch.equal(factor, factor.to(torch.bfloat16).float())


def test_the_weights_are_shared_while_it_trains_and_not_copied() -> None:
    from rome_engine.edit.methods.lora import _stand_in

    model = tiny.language_model("gpt2")
    module, stand_in = model.module, _stand_in(model.module)
    for one, other in zip(module.parameters(), stand_in.parameters(), strict=True):
        assert one is not other and one.data_ptr() == other.data_ptr()
    assert stand_in.lm_head.weight is stand_in.transformer.wte.weight  # tied weights stay so
    assert not {id(part) for part in module.modules()} & {id(part) for part in stand_in.modules()}
    assert stand_in.config is not module.config


def test_hooks_that_are_open_are_felt_and_survive() -> None:
    model = tiny.language_model("llama")
    plain = Lora().fit(model, [FACT], {}, LoraConfig((1,), tuning=SHORT)).provenance.losses
    with Trace(model.blocks[0], edit_output=lambda states, _layer: states * 1.5):
        hooked = Lora().fit(model, [FACT], {}, LoraConfig((1,), tuning=SHORT)).provenance.losses
    assert hooked[0][0] != plain[0][0]
    assert Lora().fit(model, [FACT], {}, LoraConfig((1,), tuning=SHORT)).provenance.losses == plain


def middle(model: LanguageModel) -> tuple[int, ...]:
    layers: tuple[int, ...] = editor("lora").default(model).layers
    return layers


def test_the_default_is_the_middle_third_or_the_named_layer() -> None:
    assert middle(tiny.language_model("llama")) == (1, 2)
    assert middle(tiny.language_model("gpt2", n_layer=6)) == (2, 3)
    assert middle(tiny.language_model("gpt2", n_layer=1)) == (0,)
    assert editor("lora").default(tiny.shared("llama"), 3).layers == (3,)


def test_without_peft_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(EditError, match=r"needs peft: pip install 'rome-engine\[peft\]'"):
        Lora().fit(tiny.language_model("llama"), [FACT], {}, LoraConfig((1,)))


def test_bad_settings_are_refused() -> None:
    for layers in ((), (1, 1), (2, 1)):
        with pytest.raises(EditError, match="named once each, upwards"):
            LoraConfig(layers)
    for wrong in ({"rank": 0}, {"alpha": 0}):
        with pytest.raises(EditError, match="both must be at least 1"):
            LoraConfig((1,), **wrong)
