from __future__ import annotations

import pytest
import torch

from rome_engine.errors import ActivationError, UnsupportedModelError
from rome_engine.model.heads import attention_projection, head_layout_error, head_slice, heads_proven
from rome_engine.model.hooks import Trace
from rome_engine.model.language_model import LanguageModel
from tests import tiny


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_heads_lie_one_after_another(family: str) -> None:
    model = tiny.shared(family)

    assert head_layout_error(model) < 1e-5
    assert heads_proven(model) == 8


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_another_order_of_the_columns_is_no_layout_of_heads(family: str) -> None:
    """Dimensions first, heads second: what a transposed view would be."""
    model = tiny.language_model(family)
    heads = model.architecture.n_heads

    def transposed(states: torch.Tensor, _layer: str | None) -> torch.Tensor:
        return states.unflatten(-1, (heads, -1)).transpose(-1, -2).flatten(-2)

    with Trace(attention_projection(model, model.n_layers - 1), edit_input=transposed):
        assert head_layout_error(model) > 0.1
        with pytest.raises(UnsupportedModelError, match=model.architecture.model_class):
            heads_proven(model)
    assert heads_proven(model) == 8  # a refusal is not remembered


def test_swapped_heads_that_read_other_values_are_no_layout_of_heads() -> None:
    model = tiny.language_model("llama")

    with Trace(attention_projection(model, 0), edit_input=lambda states, _layer: states.roll(16, -1)):
        assert head_layout_error(model) > 0.1


def test_states_that_are_not_finite_prove_nothing() -> None:
    model = tiny.language_model("gpt2")

    with Trace(attention_projection(model, 1), edit_input=lambda states, _layer: states * float("nan")):
        assert head_layout_error(model) == float("inf")


def test_the_layout_is_proven_once_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("gpt2")
    heads_proven(model)

    def fails(_model: LanguageModel) -> float:
        raise AssertionError("proven again")

    monkeypatch.setattr("rome_engine.model.heads.head_layout_error", fails)
    assert heads_proven(model) == 8


def test_heads_tile_the_projection_input() -> None:
    model = tiny.shared("falcon")
    columns = torch.arange(tiny.D_MODEL)

    tiles = [columns[head_slice(model, head)] for head in range(tiny.HEADS)]

    assert torch.equal(torch.cat(tiles), columns)


@pytest.mark.parametrize("head", [-1, tiny.HEADS])
def test_a_head_that_is_not_there_is_refused(head: int) -> None:
    with pytest.raises(ActivationError, match="heads are 0 to 3"):
        head_slice(tiny.shared("gpt2"), head)
