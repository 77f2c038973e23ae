"""Packed weights: the same products, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from rome_engine.model.packed import packed
from tests import tiny

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])


def linear(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if type(part).__name__ in ("Linear", "Conv1D")]


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "falcon"])
def test_packed_products_are_the_same(family: str) -> None:
    model = tiny.language_model(family)
    plain = model.module(input_ids=IDS).logits
    with packed(model.module):
        # In float32 on a CPU with these kernels every plain linear layer is changed, else none: never a part.
        assert len({"forward" in vars(part) for part in linear(model.module)}) == 1
        again = model.module(input_ids=IDS).logits
    torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))
    assert torch.equal(model.module(input_ids=IDS).logits, plain)


def test_nothing_is_left_behind_after_an_error() -> None:
    model = tiny.language_model("llama")
    weights = model.weight_hash()
    with pytest.raises(KeyboardInterrupt), packed(model.module):
        raise KeyboardInterrupt
    assert not any("forward" in vars(part) for part in model.module.modules())
    assert model.weight_hash() == weights


def test_layers_that_somebody_changed_or_of_another_type_are_left_alone() -> None:
    model = tiny.language_model("llama")
    own = model.down_projection(1)
    own.forward = torch.zeros_like  # type: ignore[assignment]
    with packed(model.module):
        assert own.forward is torch.zeros_like
    assert own.forward is torch.zeros_like
    half = tiny.language_model("llama", dtype=torch.bfloat16)
    with packed(half.module):
        assert not any("forward" in vars(part) for part in half.module.modules())
