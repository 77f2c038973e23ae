"""Llama's block computed leanly: equal to the model's own, with changes inside, and refused where it is another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from rome_engine.model.hooks import Trace, first_tensor, with_first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.memory import Memory
from rome_engine.model.plain_block import Changes, is_plain, run
from rome_engine.model.replay import KeysValues, Replay
from tests import tiny

PLAIN = ("llama", "mistral", "qwen2")
TOKENS = 9


def prepared(model: LanguageModel, start: int, alike: int) -> tuple[Replay, Tensor]:
    """The replay behind a prefix of so many rows, and random states for three times as many."""
    ids = torch.randint(3, tiny.VOCAB, (alike, TOKENS), generator=torch.Generator().manual_seed(0))
    cache = DynamicCache()
    with torch.no_grad():
        model.module.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    states = torch.randn(3 * alike, TOKENS - start, model.d_model, generator=torch.Generator().manual_seed(1))
    return Replay(model, ids[:1, start:], KeysValues.of(cache).before(start)), states


def found(model: LanguageModel, replay: Replay, given: Tensor, changes: Changes, last: int, layer: int = 1) -> Tensor:
    around = replay.around(layer)
    assert around is not None
    memory = Memory()
    memory.take("gate", given, 3).fill_(torch.nan)  # what lies there from before does not count
    with torch.no_grad():
        return run(model.blocks[layer], given.clone(), around, changes, last, memory)


def test_which_families_have_plain_blocks() -> None:
    assert tuple(family for family in tiny.FAMILIES if tiny.shared(family).blocks_are_plain) == PLAIN


@pytest.mark.parametrize("start", [0, 1, 5, TOKENS - 1])
@pytest.mark.parametrize("alike", [1, 2])
@pytest.mark.parametrize("family", PLAIN)
def test_equals_the_model_s_own_block(family: str, alike: int, start: int) -> None:
    model = tiny.shared(family)
    replay, given = prepared(model, start, alike)
    for layer in range(model.n_layers):
        with torch.no_grad():
            expected = replay.block(layer, given)
        for last in {1, TOKENS - start}:
            torch.testing.assert_close(found(model, replay, given, Changes(), last, layer), expected[:, -last:])


def test_changes_inside_equal_those_of_hooks() -> None:
    model, layer = tiny.shared("qwen2"), 1
    replay, given = prepared(model, 4, 2)
    path = model.architecture.path(layer, model.architecture.attention_projection)
    value = torch.randn(model.d_model, generator=torch.Generator().manual_seed(2))

    def head(states: Tensor, _layer: str | None = None) -> Tensor:
        states[1, 2, :8] = 3.0
        return states

    def attention(output: Any, _layer: str | None) -> Any:
        states = first_tensor(output)
        states[2, 0] = value
        return with_first_tensor(output, states)

    def mlp(output: Tensor, _layer: str | None) -> Tensor:
        output[0, 3] = value
        return output

    with (
        torch.no_grad(),
        Trace(model.module, path, edit_input=head, retain_output=False),
        Trace(model.output("attn", layer), edit_output=attention, retain_output=False),
        Trace(model.output("mlp", layer), edit_output=mlp, retain_output=False),
    ):
        expected = replay.block(layer, given)

    def middle(states: Tensor) -> Any:
        made = states[2, 0] + value
        return lambda after: after[2, 0].copy_(made)

    seen = torch.tensor([at for at in range(given.shape[0] * given.shape[1]) if at != 3])
    changes = Changes(
        heads=lambda states: states[1, 2, :8].fill_(3.0),
        middle=middle,
        mlp=lambda states: states[0, 3].add_(value),
        mlp_tokens=seen,
    )
    torch.testing.assert_close(found(model, replay, given, changes, given.shape[1]), expected)
    plain = found(model, replay, given, Changes(), given.shape[1])
    assert all(float((plain[at] - expected[at]).abs().max()) > 1e-2 for at in ((1, 2), (2, 0), (0, 3)))


def test_no_token_in_the_mlp() -> None:
    model = tiny.shared("llama")
    replay, given = prepared(model, 4, 1)
    with torch.no_grad(), Trace(model.output("mlp", 1), edit_output=lambda output, _: torch.zeros_like(output)):
        expected = replay.block(1, given)
    nobody = Changes(mlp_tokens=torch.empty(0, dtype=torch.long))
    torch.testing.assert_close(found(model, replay, given, nobody, given.shape[1]), expected)


def test_a_block_that_somebody_has_changed_is_not_plain() -> None:
    model = tiny.language_model("llama")
    block: Any = model.blocks[1]
    assert is_plain(block)
    with Trace(block.mlp.up_proj, edit_output=lambda output, _: output * 2):
        assert not is_plain(block)
        replay, _ = prepared(model, 4, 1)
        assert replay.around(1) is None and replay.around(0) is not None
        assert not model.blocks_are_plain  # and that is not remembered
    assert is_plain(block) and model.blocks_are_plain
    block.mlp.forward = block.mlp.forward
    assert not is_plain(block)


def test_a_block_that_only_looks_like_llama_s_is_not_plain() -> None:
    """The same parts, but a norm gives twice as much: the trial tells it."""
    model = tiny.model("llama")
    own: Any = type(model.model.layers[0].input_layernorm)

    class DoubleRMSNorm(own):  # type: ignore[misc]
        def forward(self, states: Tensor) -> Any:
            return 2 * super().forward(states)

    for layer in model.model.layers:
        layer.input_layernorm.__class__ = DoubleRMSNorm
    changed = LanguageModel(model, tiny.tokenizer(), "doubled")
    assert all(is_plain(block) for block in changed.blocks)
    assert not changed.blocks_are_plain


def test_memory_is_used_again_and_grows() -> None:
    memory, like = Memory(), torch.zeros(1)
    first = memory.take("a", like, 2, 3)
    assert memory.take("a", like, 5).data_ptr() == first.data_ptr() != memory.take("b", like, 5).data_ptr()
    assert memory.take("a", like, 7).shape == (7,)
    assert memory.take("a", like.double(), 2).dtype == torch.float64
