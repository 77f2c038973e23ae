"""The attention of Llama and its kin, of many rows to keys and values before them that some or all have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rome_engine.model.memory import Memory


@dataclass(frozen=True, eq=False)
class Around:
    """What a block is given beside its states.

    cos, sin: rotary tables. hides: the keys that a token does not see, of the tokens themselves and of those before;
    None: it sees all. prefix: keys and values (alike, kv_heads, tokens, d_head) of what comes before the rows, which
    are a multiple of `alike` and lie one after another within each copy of it.
    """

    cos: Float[Tensor, "n d_head"]
    sin: Float[Tensor, "n d_head"]
    hides: Bool[Tensor, "n n"] | None
    hides_before: Bool[Tensor, "n before"] | None
    prefix: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, arguments: dict[str, Any], prefix: tuple[Tensor, Tensor] | None) -> Around | None:
        """From the arguments of a block; None where they are not those of a plain one, the same for all rows."""
        tables, mask = arguments.get("position_embeddings"), arguments.get("attention_mask")
        if not isinstance(tables, tuple) or any(table.ndim != 3 or len(table) != 1 for table in tables):
            return None
        cos, sin = (table[0] for table in tables)
        n, before = len(cos), 0 if prefix is None else prefix[0].shape[2]
        if mask is None:
            visible = torch.ones(n, before + n, dtype=torch.bool, device=cos.device).tril(before)
        elif mask.dtype == torch.bool and mask.shape == (1, 1, n, before + n):
            visible = mask[0, 0]
        else:
            return None
        own, others = (None if bool(part.all()) else ~part for part in (visible[:, before:], visible[:, :before]))
        return cls(cos, sin, own, others, prefix)


def attended(
    attention: Any, states: Float[Tensor, "rows n d_model"], around: Around, last: int, memory: Memory
) -> Float[Tensor, "rows last width"]:
    """The heads' outputs for the last tokens, one after another.

    Until the end all arrays lie by (alike, kv_head, copy), so that neither product needs a copy.
    """
    rows, n, _ = states.shape
    width: int = attention.head_dim
    alike = 1 if around.prefix is None else around.prefix[0].shape[0]

    def by_head(made: Tensor) -> Tensor:
        """(alike, kv_heads, copies, tokens, heads that share keys, d_head), a view."""
        kv_heads = attention.k_proj.out_features // width
        return made.view(rows // alike, alike, -1, kv_heads, made.shape[-1] // kv_heads // width, width).permute(
            1, 3, 0, 4, 2, 5
        )

    scale, asked = attention.scaling, states[:, -last:]
    cos, sin = around.cos[-last:] * scale, around.sin[-last:] * scale
    query = _rotated("queries", by_head(memory.product("q", asked, attention.q_proj)), cos, sin, memory)
    key = _rotated("keys", by_head(memory.product("k", states, attention.k_proj)), around.cos, around.sin, memory)
    value = by_head(memory.product("v", states, attention.v_proj))
    value = memory.take("values", states, *value.shape).copy_(value)
    each, kv_heads = query.shape[3], query.shape[1]
    own_query, key, value = (part.view(-1, part.shape[3] * part.shape[4], width) for part in (query, key, value))
    later = torch.bmm(own_query, key.mT, out=memory.take("later", states, len(key), own_query.shape[1], n))
    if around.hides is not None:
        later.view(-1, last, n).masked_fill_(around.hides[-last:], -torch.inf)
    largest = later.amax(-1)
    found = memory.take("found", states, *own_query.shape)
    if around.prefix is None:
        weights = later.sub_(largest[..., None]).exp_()
        total = weights.sum(-1)
        torch.bmm(weights, value, out=found)
    else:
        before, values_before = (part.flatten(0, 1) for part in around.prefix)
        common = own_query.view(alike * kv_heads, -1, width)
        scores = memory.take("earlier", states, *common.shape[:2], before.shape[1])
        earlier = torch.bmm(common, before.mT, out=scores)
        if around.hides_before is not None:
            earlier.view(-1, last, before.shape[1]).masked_fill_(around.hides_before[-last:], -torch.inf)
        largest = torch.maximum(largest.view(alike * kv_heads, -1), earlier.amax(-1))
        earlier.sub_(largest[..., None]).exp_()
        later.sub_(largest.view(*later.shape[:-1], 1)).exp_()
        total = earlier.sum(-1).add_(later.sum(-1).view(largest.shape))
        torch.bmm(later, value, out=found)
        found.view(common.shape).baddbmm_(earlier, values_before)
    made = memory.take("heads", states, rows // alike, alike, last, kv_heads, each, width)
    torch.div(found.view(query.shape), total.view(*query.shape[:-1], 1), out=made.permute(1, 3, 0, 4, 2, 5))
    return made.view(rows, last, -1)


def _rotated(name: str, states: Tensor, cos: Tensor, sin: Tensor, memory: Memory) -> Tensor:
    """Rotary embedding, in contiguous memory (Su et al. 2021, in the two halves of GPT-NeoX)."""
    half = states.shape[-1] // 2
    made = torch.mul(states, cos, out=memory.take(name, states, *states.shape))
    made[..., :half].addcmul_(states[..., half:], sin[..., :half], value=-1)
    made[..., half:].addcmul_(states[..., :half], sin[..., half:])
    return made
