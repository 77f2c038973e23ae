"""Attention of rows to what they have in common before them and to themselves, by products without copies."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.model.memory import Memory


def joint_attention(
    query: Float[Tensor, "alike kv_heads copies each n d_head"],
    key: Float[Tensor, "alike kv_heads copies one tokens d_head"],
    value: Float[Tensor, "alike kv_heads copies one tokens d_head"],
    prefix: tuple[Tensor, Tensor] | None,
    hides: Tensor | None,
    hides_before: Tensor | None,
    memory: Memory,
) -> Float[Tensor, "rows n heads d_head"]:
    """What heads make of the values, for queries that are scaled already; `each` query heads share keys and values.

    All three are contiguous, lying by what they multiply: neither product needs a copy. prefix: keys and values (alike,
    kv_heads, before, d_head) before the tokens. hides: the keys that a query does not see, (n, tokens) and (n, before),
    or what is added to its scores. No gradients are kept.
    """
    alike, kv_heads, copies, each, n, width = query.shape
    own, key, value = (part.view(-1, part.shape[3] * part.shape[4], width) for part in (query, key, value))
    later = torch.bmm(own, key.mT, out=memory.take("later", own, *own.shape[:2], key.shape[1]))
    _hide(later.view(-1, n, later.shape[-1]), hides)
    # One softmax over both parts, by hand: neither is copied, and PyTorch's own is slow over as few numbers as these.
    largest = later.amax(-1)
    found = memory.take("found", own, *own.shape)
    if prefix is None:
        total = later.sub_(largest[..., None]).exp_().sum(-1)
        torch.bmm(later, value, out=found)
    else:
        before, values_before = (part.flatten(0, 1) for part in prefix)
        common = own.view(alike * kv_heads, -1, width)
        scores = memory.take("earlier", own, *common.shape[:2], before.shape[1])
        earlier = torch.bmm(common, before.mT, out=scores)
        _hide(earlier.view(-1, n, before.shape[1]), hides_before)
        largest = torch.maximum(largest.view(alike * kv_heads, -1), earlier.amax(-1))
        earlier.sub_(largest[..., None]).exp_()
        later.sub_(largest.view(*later.shape[:-1], 1)).exp_()
        total = earlier.sum(-1).add_(later.sum(-1).view(largest.shape))
        torch.bmm(later, value, out=found)
        found.view(common.shape).baddbmm_(earlier, values_before)
    made = memory.take("heads", own, copies, alike, n, kv_heads, each, width)
    torch.div(found.view(query.shape), total.view(*query.shape[:-1], 1), out=made.permute(1, 3, 0, 4, 2, 5))
    return made.view(copies * alike, n, -1, width)


def _hide(scores: Float[Tensor, "many n keys"], hides: Tensor | None) -> None:
    if hides is None:
        return
    if hides.dtype == torch.bool:
        scores.masked_fill_(hides, -torch.inf)
    else:
        scores += hides
