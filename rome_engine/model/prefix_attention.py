"""Attention of many rows to keys and values before them that they have in common, without a copy for each row.

transformers' own attention functions want each row's keys and values in one array, and under grouped-query attention
one for each query head: where a long text comes before a few tokens of many rows, these copies take more time than all
else. In `joint_attention` the scores of the common part are one product of all rows' queries. `attend` brings a model's
own code to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rome_engine.errors import NotReplayableError
from rome_engine.model.joint_attention import joint_attention
from rome_engine.model.memory import Memory

NAME = "rome_engine_prefix"
_MARK = "_rome_engine_prefix"
_OTHERS = ("position_bias", "cache", "softcap", "s_aux")  # what else attention may be asked for


@dataclass(eq=False)
class Prefix:
    """Keys and values (alike, kv_heads, before, d_head) of what comes before rows that are a multiple of `alike`.

    memory: for what is computed. used: how often attention took them.
    """

    keys: Tensor
    values: Tensor
    memory: Memory
    used: int = 0

    def mark(self, key_states: Tensor) -> Tensor:
        """The keys, from which `attend` knows what comes before them."""
        setattr(key_states, _MARK, self)
        return key_states


def may_attend(model: Any, dtype: torch.dtype) -> bool:
    """Whether a model's attention goes through transformers' interface, and in numbers that scores may be kept in."""
    return getattr(model.config, "_attn_implementation", None) == "sdpa" and dtype in (torch.float32, torch.float64)


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """Inside, the model's attention is `attend`."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def attend(
    module: Any,
    query: Float[Tensor, "rows heads n d_head"],
    key: Float[Tensor, "rows kv_heads n d_head"],
    value: Float[Tensor, "rows kv_heads n d_head"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers' "sdpa" gives for keys and values behind those that `Prefix.mark` put before them.

    Raises NotReplayableError where more is asked for than `joint_attention` does.
    """
    prefix: Prefix | None = getattr(key, _MARK, None)
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    strange = [name for name in _OTHERS if others.get(name) is not None]
    mask = attention_mask
    if strange or (mask is None and query.shape[2] > 1) or (mask is not None and mask.shape[:2].numel() > 1):
        raise NotReplayableError(f"attention with {', '.join(strange) or 'such a mask'} cannot share what is before it")
    prefix.used += 1
    alike, kv_heads, before, width = prefix.keys.shape

    def by_head(name: str, states: Tensor, factor: float = 1.0) -> Tensor:
        lying = states.view(-1, alike, kv_heads, states.shape[1] // kv_heads, states.shape[2], width)
        lying = lying.permute(1, 2, 0, 3, 4, 5)
        return torch.mul(lying, factor, out=prefix.memory.take(name, states, *lying.shape))

    made = joint_attention(
        by_head("queries", query, width**-0.5 if scaling is None else scaling),
        by_head("keys", key),
        by_head("values", value),
        (prefix.keys, prefix.values),
        None if mask is None else _hidden(mask[0, 0, :, before:]),
        None if mask is None else _hidden(mask[0, 0, :, :before]),
        prefix.memory,
    )
    return made, None


def _hidden(mask: Float[Tensor, "n keys"] | Bool[Tensor, "n keys"]) -> Tensor | None:
    """What `joint_attention` is to hide, of a mask that is True where a key is seen, or is added to the scores."""
    if mask.dtype != torch.bool:
        return mask
    return None if bool(mask.all()) else ~mask


AttentionInterface.register(NAME, attend)
