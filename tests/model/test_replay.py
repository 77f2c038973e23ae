"""Replayed blocks give what the whole model gives, for every family, start, padding and number of rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from rome_engine.errors import NotReplayableError
from rome_engine.model.hooks import Trace, TraceDict, first_tensor, with_first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.memory import Memory
from rome_engine.model.prefix_attention import Prefix, attend
from rome_engine.model.replay import KeysValues, Replay
from tests import tiny

TOKENS = 9


def random_ids(rows: int, tokens: int = TOKENS, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, tiny.VOCAB, (rows, tokens), generator=generator)


@torch.no_grad()
def states(model: LanguageModel, ids: Tensor, **given: Any) -> tuple[list[Tensor], list[Tensor], KeysValues]:
    """Each block's input and output in a full forward pass, and its keys and values."""
    cache = DynamicCache()
    with TraceDict(model.module, model.architecture.blocks, retain_input=True, clone=True) as seen:
        model.module(input_ids=ids, past_key_values=cache, use_cache=True, **given)
    inputs = [trace.input for trace in seen.values()]
    return inputs, [first_tensor(trace.output) for trace in seen.values()], KeysValues.of(cache)


def assert_close(value: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert value.shape == expected.shape
    error = (value - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"relative error {float(error):.2g}"


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("start", [0, 1, 4, TOKENS - 1])
def test_replayed_blocks_equal_the_full_forward(family: str, start: int) -> None:
    model = tiny.shared(family)
    ids = random_ids(3)
    inputs, outputs, keys_values = states(model, ids)
    replay = Replay(model, ids[:1, start:], keys_values.before(start))
    for layer in range(model.n_layers):
        with torch.no_grad():
            assert_close(replay.block(layer, inputs[layer][:, start:]), outputs[layer][:, start:])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_stretch_in_the_middle(family: str) -> None:
    model = tiny.shared(family)
    ids = random_ids(2)
    inputs, outputs, keys_values = states(model, ids)
    for begin, end in ((3, 4), (2, 6)):
        replay = Replay(model, ids[:1, begin:end], keys_values.before(begin))
        for layer in range(model.n_layers):
            with torch.no_grad():
                assert_close(replay.block(layer, inputs[layer][:, begin:end]), outputs[layer][:, begin:end])


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("several", [False, True])
def test_more_rows_than_the_prefix_has(family: str, start: int, several: bool) -> None:
    """Row c · p + r goes with row r of the prefix, whether the stretch was prepared with one row or with p."""
    model = tiny.shared(family)
    prefix, copies = 2, 3
    ids = random_ids(prefix * copies)
    ids[:, :start] = ids[:prefix, :start].repeat(copies, 1)
    inputs, outputs, keys_values = states(model, ids)
    stretch = ids[:prefix] if several else ids[:1]
    replay = Replay(model, stretch[:, start:], keys_values.rows(0, prefix).before(start))
    for layer in range(model.n_layers):
        with torch.no_grad():
            assert_close(replay.block(layer, inputs[layer][:, start:]), outputs[layer][:, start:])


SHARING = (
    *("gpt2", "neox", "opt", "phi", "phi3", "llama", "mistral", "qwen2", "qwen3"),
    *("gemma3", "olmo2", "starcoder2", "neox_sequential"),
)


def test_which_families_share_what_comes_before_their_rows() -> None:
    assert tuple(family for family in tiny.FAMILIES if tiny.shared(family).attends_to_common_prefix) == SHARING


@pytest.mark.parametrize("family", SHARING)
@pytest.mark.parametrize("start", [1, 5, TOKENS - 1])
@pytest.mark.parametrize("alike", [1, 2])
def test_a_shared_prefix_is_as_one_for_each_row(family: str, start: int, alike: int) -> None:
    model, memory = tiny.shared(family), Memory()
    memory.take("heads", torch.empty(0), 3).fill_(torch.nan)  # what lies there from before does not count
    ids = random_ids(alike)
    _, _, keys_values = states(model, ids)
    given = torch.randn(3 * alike, TOKENS - start, model.d_model, generator=torch.Generator().manual_seed(1))
    before = keys_values.before(start)
    shared, apart = (Replay(model, ids[:1, start:], before, common=common) for common in (memory, None))
    for layer in range(model.n_layers):
        with torch.no_grad():
            assert_close(shared.block(layer, given), apart.block(layer, given))
    assert model.module.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("other", [{"softcap": 30.0}, {"s_aux": torch.zeros(2)}, {"attention_mask": None}])
def test_attention_of_another_kind_cannot_share(other: dict[str, Any]) -> None:
    keys = torch.zeros(1, 2, 4, 8)
    arguments = {"attention_mask": torch.ones(1, 1, 3, 7, dtype=torch.bool), **other}
    given = Prefix(keys, keys, Memory()).mark(torch.zeros(2, 2, 3, 8))
    with pytest.raises(NotReplayableError, match="cannot share"):
        attend(None, torch.zeros(2, 2, 3, 8), given, torch.zeros(2, 2, 3, 8), **arguments)


class Padded:
    """Rows of different lengths as the value search has them: [padding | prefix | suffix]."""

    lengths = (3, 6, 1)
    suffix = 4

    def __init__(self, model: LanguageModel) -> None:
        self.rows = [random_ids(1, length + self.suffix, seed) for seed, length in enumerate(self.lengths)]
        self.longest = max(self.lengths)
        total = self.longest + self.suffix
        self.ids = torch.full((len(self.rows), total), tiny.PAD)
        self.mask = torch.zeros(len(self.rows), total, dtype=torch.long)
        for row, ids in enumerate(self.rows):
            self.ids[row, total - ids.shape[1] :] = ids
            self.mask[row, total - ids.shape[1] :] = 1
        self.positions = (self.mask.cumsum(-1) - 1).clamp_min(0)
        given: dict[str, Any] = {"attention_mask": self.mask}
        if model.architecture.family not in ("bloom", "mpt"):  # these have no positions but their masks
            given["position_ids"] = self.positions
        _, _, self.keys_values = states(model, self.ids, **given)
        self.replay = Replay(
            model,
            self.ids[:, self.longest :],
            self.keys_values.before(self.longest),
            mask=self.mask,
            positions=self.positions[:, self.longest :],
        )


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("copies", [1, 2])
def test_left_padded_rows_equal_single_unpadded_runs(family: str, copies: int) -> None:
    model = tiny.shared(family)
    padded = Padded(model)
    single = [states(model, ids)[:2] for ids in padded.rows]
    for layer in range(model.n_layers):
        hidden = torch.cat([inputs[layer][:, -padded.suffix :] for inputs, _ in single])
        expected = torch.cat([outputs[layer][:, -padded.suffix :] for _, outputs in single])
        with torch.no_grad():
            replayed = padded.replay.block(layer, hidden.repeat(copies, 1, 1))
        assert_close(replayed, expected.repeat(copies, 1, 1))


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])
def test_the_padding_matters(family: str) -> None:
    """Control for the test above: without the mask the padded rows come out wrong."""
    model = tiny.shared(family)
    padded = Padded(model)
    replay = Replay(model, padded.ids[:, padded.longest :], padded.keys_values.before(padded.longest))
    hidden = torch.randn(len(padded.lengths), padded.suffix, model.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (replay.block(1, hidden) - padded.replay.block(1, hidden)).abs().amax((1, 2))
    full = padded.lengths.index(padded.longest)
    assert difference[full] < 1e-4
    assert min(difference[row] for row in range(len(padded.lengths)) if row != full) > 1e-2


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_equal_those_of_a_full_forward(family: str) -> None:
    """A delta added to block 1's output at token `start`: its gradient through the layers above."""
    model = tiny.shared(family)
    start, layer = 4, 1
    ids = random_ids(2)
    _, outputs, keys_values = states(model, ids)
    weights = torch.randn(tiny.VOCAB, generator=torch.Generator().manual_seed(1))

    delta = torch.zeros(model.d_model, requires_grad=True)
    replay = Replay(model, ids[:1, start:], keys_values.before(start))
    hidden = outputs[layer][:, start:].clone()
    hidden = torch.cat([hidden[:, :1] + delta, hidden[:, 1:]], 1)
    for above in range(layer + 1, model.n_layers):
        hidden = replay.block(above, hidden)
    torch.autograd.backward((model.unembed(hidden[:, -1]) @ weights).sum())

    whole = torch.zeros(model.d_model, requires_grad=True)

    def add(output: Any, _layer: str | None) -> Any:
        state = first_tensor(output)
        parts = [state[:, :start], state[:, [start]] + whole, state[:, start + 1 :]]
        return with_first_tensor(output, torch.cat(parts, 1))

    with Trace(model.module, model.architecture.blocks[layer], edit_output=add):
        logits = model.module(input_ids=ids, use_cache=False).logits
    torch.autograd.backward((logits[:, -1] @ weights).sum())

    assert delta.grad is not None and whole.grad is not None
    assert float(whole.grad.abs().max()) > 0
    assert_close(delta.grad, whole.grad, 1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_model_is_as_before_after_a_failure(family: str) -> None:
    model = tiny.shared(family)
    ids = random_ids(2)
    before = model.module(input_ids=ids).logits
    with pytest.raises(IndexError):
        Replay(model, torch.full((1, 3), tiny.VOCAB + 5))
    embedding = model.embedding
    assert not embedding._forward_hooks

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    norm = model.module.get_submodule(model.architecture.final_norm)
    handle = norm.register_forward_pre_hook(interrupt)  # after all blocks have been replaced and called
    try:
        with pytest.raises(KeyboardInterrupt):
            Replay(model, ids[:1])
    finally:
        handle.remove()
    assert all("forward" not in vars(block) for block in model.blocks)
    assert torch.equal(model.module(input_ids=ids).logits, before)


def test_a_wrapper_on_a_block_is_put_back() -> None:
    """accelerate keeps its own forward in the instance."""
    model = tiny.language_model("llama")
    block = model.blocks[0]
    plain = block.forward

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    block.forward = wrapper
    Replay(model, random_ids(1))
    assert block.forward is wrapper


def test_keys_values_are_cut_by_row_and_token() -> None:
    model = tiny.shared("llama")
    _, _, keys_values = states(model, random_ids(4))
    cut = keys_values.rows(1, 3).before(5)
    for (keys, values), (all_keys, all_values) in zip(cut.layers, keys_values.layers, strict=True):
        assert torch.equal(keys, all_keys[1:3, :, :5])
        assert torch.equal(values, all_values[1:3, :, :5])
    assert keys_values.rows(2, None).layers[0][0].shape[0] == 2
