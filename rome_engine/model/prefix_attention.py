"""Attention of many rows to keys and values before them that they have in common, without a copy for each row.

transformers' own attention functions want each row's keys and values in one array, and under grouped-query attention
one for each query head: where a long text comes before a few tokens of many rows, these copies take more time than all
else. Here the scores of the common part are one product of all rows' queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "rome_engine_prefix"
_MARK = "_rome_engine_prefix"
_TO_PREFIX, _TO_ROWS = (1, 2, 0, 3, 4), (2, 0, 1, 3, 4)  # from (copies, alike, heads, …) to (alike, heads, copies, …)
_OTHERS = ("position_bias", "cache", "softcap", "s_aux")  # what else attention may be asked for


@dataclass(eq=False)
class Prefix:
    """Keys and values (rows, kv_heads, tokens, d_head) before those of rows that are a multiple of its own.

    used: how often attention took them.
    """

    keys: Tensor
    values: Tensor
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
    """What transformers' "sdpa" gives for keys and values behind those that `Prefix.mark` put before them."""
    prefix: Prefix | None = getattr(key, _MARK, None)
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    strange = [name for name in _OTHERS if others.get(name) is not None]
    mask = attention_mask
    if strange or (mask is None and query.shape[2] > 1) or (mask is not None and mask.shape[:2].numel() > 1):
        raise NotImplementedError(f"attention with {strange or 'such a mask'}")
    prefix.used += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _attended(query, key, value, prefix, mask, scale), None


def _attended(
    query: Tensor, key: Tensor, value: Tensor, prefix: Prefix, mask: Tensor | None, scale: float
) -> Float[Tensor, "rows n heads d_head"]:
    rows, heads, n, width = query.shape
    alike, kv_heads, before = prefix.keys.shape[:3]
    copies, each = rows // alike, heads // kv_heads
    nothing = query.new_empty(())
    # All rows' queries for each of the prefix's rows and heads; and each row's own.
    own = query.reshape(copies, alike, kv_heads, each * n, width)
    common = own.permute(_TO_PREFIX).reshape(alike * kv_heads, copies * each * n, width)
    own = own.view(-1, each * n, width)
    earlier = torch.baddbmm(nothing, common, _flat(prefix.keys).mT, beta=0, alpha=scale)
    later = torch.baddbmm(nothing, own, _flat(key).mT, beta=0, alpha=scale)
    if mask is not None:
        _hide(earlier.view(-1, n, before), mask[0, :, :, :before])
        _hide(later.view(-1, n, n), mask[0, :, :, before:])

    # One softmax over both parts, by hand: neither is copied, and PyTorch's own is slow over as few numbers as these.
    by_row = (copies, alike, kv_heads, each * n, -1)
    by_prefix = (alike, kv_heads, copies, each * n, -1)
    largest = torch.maximum(earlier.amax(-1).view(by_prefix).permute(_TO_ROWS), later.amax(-1).view(by_row))
    earlier.sub_(largest.permute(_TO_PREFIX).reshape(*common.shape[:2], 1)).exp_()
    later.sub_(largest.reshape(-1, each * n, 1)).exp_()
    total = earlier.sum(-1).view(by_prefix).permute(_TO_ROWS) + later.sum(-1).view(by_row)
    found = torch.bmm(later, _flat(value)).view(by_row)
    found += torch.bmm(earlier, _flat(prefix.values)).view(by_prefix).permute(_TO_ROWS)
    found /= total
    return found.view(rows, heads, n, width).transpose(1, 2).contiguous()


def _hide(scores: Float[Tensor, "many n keys"], mask: Tensor) -> None:
    if mask.dtype != torch.bool:
        scores += mask
    elif not bool(mask.all()):
        scores.masked_fill_(~mask, -torch.inf)


def _flat(states: Tensor) -> Tensor:
    """(rows, kv_heads, …) as (rows · kv_heads, …)."""
    return states.reshape(-1, *states.shape[2:])


AttentionInterface.register(NAME, attend)
