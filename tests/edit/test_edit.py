"""An edit goes in and comes out exactly, whatever happens in between."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from rome_engine.errors import EditError, WrongWeightsError
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import LAYER, bit_equal, random_edit, state

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FAMILIES = ("gpt2", "llama", "gemma2", "bloom")  # Conv1D and Linear, tied and untied


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_applied_then_undone_is_bit_equal(family: str, dtype: torch.dtype) -> None:
    model = tiny.language_model(family, dtype=dtype)
    before, edit = state(model), random_edit(model)
    with edit.applied(model) as edited:
        assert edited is model
        assert not bit_equal(model, before)
        weight = model.weight(LAYER)
        assert weight.dtype == dtype
        original = before[f"{edit.layers[LAYER].path}.weight"]
        original = original.T if family == "gpt2" else original
        assert torch.equal(weight, (original.float() + edit.delta(LAYER)).to(dtype))
    assert bit_equal(model, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_subtracting_the_change_would_not_restore(dtype: torch.dtype) -> None:
    """Why the saved weight is written back: the negative control of the test above."""
    model = tiny.language_model("llama", dtype=dtype)
    before, edit = state(model), random_edit(model)
    edit.apply_(model)
    weight = model.weight(LAYER)
    weight.copy_((weight.float() - edit.delta(LAYER)).to(dtype))
    assert not bit_equal(model, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_undoes_it_too(error: type[BaseException]) -> None:
    model = tiny.language_model("llama")
    before = state(model)
    with pytest.raises(error), random_edit(model, (0, 2)).applied(model):
        raise error
    assert bit_equal(model, before)


def test_an_error_while_applying_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    before, edit = state(model), random_edit(model, (0, 2))
    change = edit.layers[2]

    def interrupt(_weight: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    object.__setattr__(change, "added_to", interrupt)
    with pytest.raises(KeyboardInterrupt):
        edit.apply_(model)
    assert bit_equal(model, before)
    object.__delattr__(change, "added_to")
    with edit.applied(model):
        assert not bit_equal(model, before)
    assert bit_equal(model, before)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_stacked_edits_come_out_in_any_order(order: tuple[int, ...], dtype: torch.dtype) -> None:
    """After each removal the weights are those that the edits left, applied alone in their order, would make."""
    model, other = (tiny.language_model("gpt2", dtype=dtype) for _ in range(2))
    before = state(model)
    edits = [random_edit(model, layers, seed=seed) for seed, layers in enumerate([(0, 1), (1,), (1, 2)])]
    handles = [edit.apply_(model) for edit in edits]
    left = set(range(3))
    for index in order:
        handles[index].undo()
        handles[index].undo()  # once more does nothing
        left.remove(index)
        alone = [edits[number].apply_(other) for number in sorted(left)]
        assert bit_equal(model, state(other))
        for handle in alone:
            handle.undo()
    assert bit_equal(model, before)


def test_an_edit_made_on_top_of_another_goes_on_top_of_it() -> None:
    model = tiny.language_model("llama")
    before, first = state(model), random_edit(model)
    lower = first.apply_(model)
    second = random_edit(model, seed=1)
    upper = second.apply_(model)
    lower.undo()
    upper.undo()
    assert bit_equal(model, before)
    with pytest.raises(WrongWeightsError, match=f"layer {LAYER}"):
        second.apply_(model)


def test_every_view_of_a_model_sees_the_same_stack_and_a_copy_has_its_own() -> None:
    model = tiny.language_model("llama")
    before, edit = state(model), random_edit(model)
    handle = edit.apply_(model)
    view = LanguageModel(model.module, model.tokenizer, "view")
    twin = LanguageModel(copy.deepcopy(model.module), model.tokenizer, "twin")
    other = random_edit(twin, (0,), seed=3)
    upper = other.apply_(view)
    handle.undo()
    upper.undo()
    assert bit_equal(model, before)
    assert not bit_equal(twin, before)


def test_other_weights_are_refused_by_layer() -> None:
    model = tiny.language_model("llama")
    edit = random_edit(model)
    for wrong, reason in [
        (tiny.language_model("llama", seed=1), f"layer {LAYER} of llama differs"),
        (tiny.language_model("llama", dtype=torch.bfloat16), "made in float32, these weights are bfloat16"),
        (tiny.language_model("llama", intermediate_size=40), "32 × 48, the weight of llama is 32 × 40"),
        (tiny.language_model("llama", num_hidden_layers=1), "layers 0 to 0"),
    ]:
        before = state(wrong)
        with pytest.raises(WrongWeightsError, match=reason):
            edit.apply_(wrong)
        assert bit_equal(wrong, before)


def test_delta_and_rank() -> None:
    model = tiny.language_model("gpt2")
    edit = random_edit(model, (0, 2), rank=3)
    assert edit.rank == 3
    assert edit.delta(2).shape == model.weight(2).shape
    assert torch.linalg.matrix_rank(edit.delta(2)) == 3
    with pytest.raises(EditError, match="layer 1 is not edited: this edit changes 0, 2"):
        edit.delta(1)
