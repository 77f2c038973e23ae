"""Edits beside the weights: each row of a batch as if its own edit had been applied alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rome_engine.edit import Edit
from rome_engine.edit.per_row import SidePaths, per_row
from rome_engine.errors import EditError, WrongWeightsError
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import bit_equal, random_edit, state

IDS = torch.arange(35).reshape(5, 7) * 11 % 400 + 3
ROWS = (2, 0, -1, 1, 0)


def logits(model: LanguageModel, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        found: Any = model.module(input_ids=ids, use_cache=False).logits
    return found


def three(model: LanguageModel) -> list[Edit]:
    """Of other layers and ranks."""
    return [
        random_edit(model, (1,), seed=0, rank=1),
        random_edit(model, (0, 2), seed=1, rank=3),
        random_edit(model, (1, 2), seed=2, rank=2),
    ]


def alone(model: LanguageModel, edits: list[Edit]) -> Tensor:
    found = [logits(model)]
    for edit in edits:
        with edit.applied(model):
            found.append(logits(model))
    return torch.stack([found[edit + 1][row] for row, edit in enumerate(ROWS)])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_each_row_is_as_with_its_edit_alone(family: str) -> None:
    model = tiny.language_model(family)
    before, edits = state(model), three(model)
    plain, expected = logits(model), alone(model, edits)
    assert all((plain[row] - expected[row]).abs().max() > 1e-2 for row in (0, 1, 3, 4))  # the edits are felt
    with per_row(model, edits) as paths:
        paths.choose(torch.tensor(ROWS))
        found = logits(model)
        assert bit_equal(model, before)
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-5 * scale
    assert torch.equal(found[2], plain[2])
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_near_as_it_can_be(dtype: torch.dtype) -> None:
    model = tiny.language_model("llama", dtype=dtype)
    edits = three(model)
    expected = alone(model, edits)
    with per_row(model, edits) as paths:
        paths.choose(ROWS)
        found = logits(model)
    assert found.dtype == dtype
    close = (found - expected).float().norm() / expected.float().norm()
    assert close < 8 * torch.finfo(dtype).eps


def test_rows_may_be_chosen_again_for_another_batch() -> None:
    model = tiny.language_model("gpt2")
    edits = three(model)
    with edits[1].applied(model):
        expected = logits(model, IDS[:2])
    with per_row(model, edits) as paths:
        paths.choose(ROWS)
        logits(model)
        paths.choose([1, 1])
        assert torch.allclose(logits(model, IDS[:2]), expected, atol=1e-4)


def test_they_go_on_top_of_edits_in_force() -> None:
    model = tiny.language_model("llama")
    lower = random_edit(model, (1,), seed=8)
    edits = three(model)
    with lower.applied(model):
        expected = alone(model, edits)
        with per_row(model, edits) as paths:
            paths.choose(ROWS)
            assert torch.allclose(logits(model), expected, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "opt"])  # opt flattens rows and tokens
def test_a_batch_of_other_rows_is_refused(family: str) -> None:
    model = tiny.language_model(family)
    plain = logits(model)
    with per_row(model, three(model)) as paths:
        with pytest.raises(EditError, match="there are 3 edits: choose"):
            logits(model)
        paths.choose([0, 1, 2])
        with pytest.raises(EditError, match="edits are chosen for 3 rows, but the batch has"):
            logits(model)
        for wrong in ([3], [-2]):
            with pytest.raises(EditError, match="0 to 2, or -1 for none"):
                paths.choose(wrong)
    assert torch.equal(logits(model), plain)


def test_one_edit_is_every_rows() -> None:
    model = tiny.language_model("gpt2")
    edit = random_edit(model, (0, 2))
    with edit.applied(model):
        expected = logits(model)
    with SidePaths(model.module, [edit]):
        assert torch.allclose(logits(model), expected, atol=1e-4)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_inside_leaves_no_hook(error: type[BaseException]) -> None:
    model = tiny.language_model("llama")
    plain = logits(model)
    with pytest.raises(error), per_row(model, three(model)) as paths:
        paths.choose(ROWS)
        raise error
    assert torch.equal(logits(model), plain)
    assert not any(module._forward_hooks for module in model.module.modules())


def test_edits_of_other_weights_are_refused() -> None:
    model = tiny.language_model("llama")
    edits = [random_edit(model), random_edit(tiny.language_model("llama", seed=1))]
    with pytest.raises(WrongWeightsError, match="layer 1"), per_row(model, edits):
        pass
    with pytest.raises(EditError, match="at least one"), per_row(model, []):
        pass
