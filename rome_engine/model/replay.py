"""Running single blocks of an unmodified model on the rows of many experiments at once.

A change made to one token can only be felt by later layers at that token and the ones after it. So a block is replayed
on the tokens [start, end) alone; what lies before is given to its attention as keys and values. The block's other
arguments (masks, rotary tables, biases) are those that the model itself makes for such a call: they are captured once
and used for any number of rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from rome_engine.errors import NotReplayableError
from rome_engine.model.hooks import first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.memory import Memory
from rome_engine.model.plain_attention import Around
from rome_engine.model.plain_block import Changes, is_plain, run
from rome_engine.model.prefix_attention import Prefix, attending, may_attend

# Arguments of a block whose first dimension is the row; a single row's broadcasts by itself.
_PER_ROW = frozenset({"attention_mask", "position_ids", "position_embeddings"})
# Those whose first dimension is the row *and head*: even a single row's does not broadcast.
_PER_ROW_AND_HEAD = frozenset({"alibi"})


@dataclass(frozen=True, eq=False)
class KeysValues:
    """Attention keys and values of one run, a pair a layer, each (rows, kv_heads, tokens, d_head)."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, cache: DynamicCache) -> KeysValues:
        """What a model left in a cache."""
        layers: list[Any] = cache.layers
        return cls(tuple((layer.keys, layer.values) for layer in layers))

    def rows(self, begin: int, end: int | None) -> KeysValues:
        """Those of the rows [begin, end), to the last for None."""
        return KeysValues(tuple((keys[begin:end], values[begin:end]) for keys, values in self.layers))

    def before(self, token: int) -> KeysValues:
        """Those of the tokens before `token`."""
        return KeysValues(tuple((keys[:, :, :token], values[:, :, :token]) for keys, values in self.layers))


class Replay:
    """The blocks of a model on the tokens [start, start + n), given what comes before.

    ids: (rows, n) token ids of that stretch; one row serves any number of rows that differ in their states only.
    prefix: keys and values of the `start` tokens before (rows, or a divisor of the rows replayed later, which then lie
    one after another within each copy of the prefix); None where start is 0.
    mask: (rows, start + n), 0 where a row is padded; positions: (rows, n) position ids where they do not simply count
    up. With them, rows of different lengths go together: the prefix of a short one is padded on the left.
    common: memory in which rows attend to the prefix without a copy of it for each, as `attends_to_common_prefix` asks.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: Int[Tensor, "rows n"],
        prefix: KeysValues | None = None,
        *,
        mask: Int[Tensor, "rows tokens"] | None = None,
        positions: Int[Tensor, "rows n"] | None = None,
        common: Memory | None = None,
    ) -> None:
        self.model = model
        self._common = common
        self._cache = _prefix_cache(prefix, model.n_layers)
        self._rows = ids.shape[0]
        self._calls: list[dict[str, Any]] = []
        tuples = model.blocks_return_tuples
        extra: dict[str, Any] = {}
        if mask is not None:
            extra["attention_mask"] = mask
        if positions is not None and "position_ids" in _parameters(model.module):
            extra["position_ids"] = positions

        names = list(inspect.signature(type(model.blocks[0]).forward).parameters)[2:]  # without self and the states

        def capture(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, None]:
            self._calls.append({**dict(zip(names, args, strict=False)), **kwargs})
            return (hidden, None) if tuples else hidden

        with torch.no_grad(), _blocks_replaced(model.blocks, capture):
            model.module.base_model(input_ids=ids, past_key_values=self._cache, use_cache=True, **extra)
        if len(self._calls) != model.n_layers:
            raise RuntimeError(f"{len(self._calls)} of {model.n_layers} blocks were called")

    def block(self, layer: int, hidden: Float[Tensor, "rows n d_model"]) -> Float[Tensor, "rows n d_model"]:
        """The block's output for these inputs, one row an experiment."""
        copies = hidden.shape[0] // self._rows
        repeated = _PER_ROW_AND_HEAD if self._rows == 1 else _PER_ROW_AND_HEAD | _PER_ROW
        arguments = {
            name: _repeat(value, copies) if copies > 1 and name in repeated else value
            for name, value in self._calls[layer].items()
        }
        if copies > 1 and self._common is not None:
            return self._with_common_prefix(layer, hidden, arguments, self._common)
        return first_tensor(self.model.blocks[layer](hidden, **arguments))

    def _with_common_prefix(self, layer: int, hidden: Tensor, arguments: dict[str, Any], memory: Memory) -> Tensor:
        before: Any = self._cache.layers[layer]
        with before.common(memory) as prefix, attending(self.model.module):
            made = first_tensor(self.model.blocks[layer](hidden, **arguments))
        if prefix is not None and prefix.used != 1:
            raise NotReplayableError(f"the attention of layer {layer} did not take what comes before its rows")
        return made

    def around(self, layer: int) -> Around | None:
        """What `plain_block.run` is to be given for this layer; None where the block's own code must run."""
        if not is_plain(self.model.blocks[layer]):
            return None
        cached: Any = self._cache.layers[layer]
        return Around.of(self._calls[layer], cached.prefix)

    def take(self, rows: Int[Tensor, " some"]) -> Replay:
        """The replay of some of its rows, in this order; the ids and the prefix it was made of have a row each."""
        taken = copy(self)
        taken._rows = len(rows)
        layers: list[Any] = self._cache.layers
        taken._cache = Cache(layers=[layer.take(rows) for layer in layers])
        # The blocks share most of their arguments; what is shared stays so.
        same: dict[int, Any] = {id(self._cache): taken._cache}
        for name, value in (item for call in self._calls for item in call.items()):
            if id(value) not in same:
                same[id(value)] = self._some(name, value, rows)
        taken._calls = [{name: same[id(value)] for name, value in call.items()} for call in self._calls]
        return taken

    def _some(self, name: str, value: Any, rows: Tensor) -> Any:
        if isinstance(value, tuple):
            return tuple(self._some(name, part, rows) for part in value)
        if not isinstance(value, Tensor) or name not in _PER_ROW | _PER_ROW_AND_HEAD or value.shape[0] == 1:
            return value
        return torch.unflatten(value, 0, (self._rows, -1))[rows.to(value.device)].flatten(0, 1)


@torch.no_grad()
def attends_to_common_prefix(model: LanguageModel) -> bool:
    """Whether `prefix_attention` may stand in for a model's own attention: tried on a short text, in all layers."""
    if not may_attend(model.module, model.dtype):
        return False
    ids = torch.arange(1, 6, device=model.device)[None] % model.architecture.d_vocab
    cache = DynamicCache()
    model.module.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    memory = Memory()
    for start in (2, 4):
        replay = Replay(model, ids[:, start:], KeysValues.of(cache).before(start))
        given = model.embedding(ids[:, start:].expand(2, -1)) * torch.tensor([1, -1]).to(ids)[:, None, None]
        for layer in range(model.n_layers):
            arguments = replay._calls[layer]
            expected = first_tensor(model.blocks[layer](given, **arguments))
            try:
                found = replay._with_common_prefix(layer, given, arguments, memory)
            except (RuntimeError, NotReplayableError):
                return False
            if not torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())):
                return False
    return True


@torch.no_grad()
def blocks_are_plain(model: LanguageModel) -> bool:
    """Whether `plain_block` may stand in for a model's own blocks: tried on a short text, in all layers."""
    if model.dtype not in (torch.float32, torch.float64):
        return False
    ids = torch.arange(1, 6, device=model.device)[None] % model.architecture.d_vocab
    cache = DynamicCache()
    model.module.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    memory = Memory()
    for start in (0, 2, 4):
        replay = Replay(model, ids[:, start:], KeysValues.of(cache).before(start))
        given = model.embedding(ids[:, start:].expand(2, -1)) * torch.tensor([1, -1]).to(ids)[:, None, None]
        for layer, block in enumerate(model.blocks):
            around = replay.around(layer)
            if around is None:
                return False
            expected = first_tensor(block(given, **replay._calls[layer]))
            for last in {1, 5 - start}:
                try:
                    found = run(block, given.clone(), around, Changes(), last, memory)
                except (AttributeError, RuntimeError):
                    return False
                if not torch.allclose(found, expected[:, -last:], rtol=1e-4, atol=1e-5 * float(expected.abs().max())):
                    return False
    return True


def _repeat(value: Any, copies: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_repeat(part, copies) for part in value)
    # A row dimension of 1 is left to broadcast.
    if not isinstance(value, Tensor) or value.shape[0] == 1:
        return value
    return value.repeat(copies, *[1] * (value.ndim - 1))


@contextmanager
def _blocks_replaced(blocks: Sequence[nn.Module], forward: Any) -> Iterator[None]:
    """Blocks that only hand their input on: the model then prepares every block's arguments at no cost."""
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = forward
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                vars(block).pop("forward", None)
            else:  # accelerate keeps its wrapper there
                block.forward = own


class _PrefixLayer(DynamicLayer):
    """Puts one layer's fixed prefix before the keys and values of the moment, and keeps nothing."""

    def __init__(self, keys: Tensor | None, values: Tensor | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prefix = None if keys is None or values is None or keys.shape[-2] == 0 else (keys, values)
        self.is_initialized = True
        self._common: Prefix | None = None

    @contextmanager
    def common(self, memory: Memory) -> Iterator[Prefix | None]:
        """Inside, the prefix is not joined to the keys and values, but left to `prefix_attention.attend`."""
        self._common = None if self.prefix is None else Prefix(*self.prefix, memory)
        try:
            yield self._common
        finally:
            self._common = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.prefix is None:
            return key_states, value_states
        if self._common is not None:
            return self._common.mark(key_states), value_states
        return _joined(self.prefix[0], key_states), _joined(self.prefix[1], value_states)

    def take(self, rows: Tensor) -> _PrefixLayer:
        if self.prefix is None:
            return self
        keys, values = self.prefix
        return _PrefixLayer(keys[rows.to(keys.device)], values[rows.to(values.device)])

    def get_seq_length(self) -> int:
        return 0 if self.prefix is None else int(self.prefix[0].shape[-2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + int(query_length), 0


def _joined(prefix: Tensor, states: Tensor) -> Tensor:
    """prefix (p, heads, start, d) before states (copies · p, heads, n, d)."""
    if prefix.shape[0] == states.shape[0]:
        return torch.cat([prefix, states], dim=-2)
    rows, heads, n, width = states.shape
    start = prefix.shape[-2]
    joined = states.new_empty(rows, heads, start + n, width)
    joined.view(-1, *prefix.shape[:2], start + n, width)[..., :start, :] = prefix
    joined[..., start:, :] = states
    return joined


def _prefix_cache(prefix: KeysValues | None, n_layers: int) -> Cache:
    pairs = [(None, None)] * n_layers if prefix is None else prefix.layers
    return Cache(layers=[_PrefixLayer(keys, values) for keys, values in pairs])


def _parameters(module: Any) -> Sequence[str]:
    return list(inspect.signature(module.base_model.forward).parameters)
