"""The attention of Llama and its kin, its queries and keys rotated to where `joint_attention` wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rome_engine.model.joint_attention import joint_attention
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
    """The heads' outputs for the last tokens, one after another."""
    rows, width = len(states), int(attention.head_dim)
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
    hides, hides_before = (None if part is None else part[-last:] for part in (around.hides, around.hides_before))
    made = joint_attention(query, key, value, around.prefix, hides, hides_before, memory)
    return made.view(rows, last, -1)


def _rotated(name: str, states: Tensor, cos: Tensor, sin: Tensor, memory: Memory) -> Tensor:
    """Rotary embedding, in contiguous memory (Su et al. 2021, in the two halves of GPT-NeoX)."""
    half = states.shape[-1] // 2
    made = torch.mul(states, cos, out=memory.take(name, states, *states.shape))
    made[..., :half].addcmul_(states[..., half:], sin[..., :half], value=-1)
    made[..., half:].addcmul_(states[..., :half], sin[..., half:])
    return made
