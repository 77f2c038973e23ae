"""The block of Llama and its kin, computed with as few arrays between its products as it can be.

Between products of some hundred tokens a processor waits for memory, and every array that is written and read again
costs time. The model's own code writes some thirty of the states' size in a block, joins keys and values for every row
and repeats them for every query head; here sums go where the residual lies, rotated queries where attention wants
them, and the scores of what comes before all rows are one product of all rows' queries.

Where this stands in for a model's own blocks it has been tried on them: see `LanguageModel.blocks_are_plain`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rome_engine.model.memory import Memory
from rome_engine.model.plain_attention import Around, attended

_LINEAR = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_SILU = ("SiLU", "SiLUActivation")


@dataclass(frozen=True, eq=False)
class Changes:
    """What is changed inside a block, on its last tokens.

    heads: told the heads' outputs. middle: told the block's input, gives what changes the residual after the attention.
    mlp: told the residual after the MLP, which is computed for these of the rows' tokens only; None: for all.
    """

    heads: Callable[[Tensor], object] | None = None
    middle: Callable[[Tensor], Callable[[Tensor], object]] | None = None
    mlp: Callable[[Tensor], object] | None = None
    mlp_tokens: Int[Tensor, " some"] | None = None


def is_plain(block: nn.Module) -> bool:
    """Whether a block has the parts of Llama's, and nobody has put a hook or another forward on one of them."""
    try:
        linear = [block.get_submodule(name) for name in (*_LINEAR, *_GATED)]
    except AttributeError:
        return False
    return all(type(part) is nn.Linear for part in linear) and not any(
        "forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks for part in block.modules()
    )


def run(
    block: Any,
    hidden: Float[Tensor, "rows n d_model"],
    around: Around,
    changes: Changes,
    last: int,
    memory: Memory,
) -> Float[Tensor, "rows last d_model"]:
    """The block's output for the last tokens of each row; where these are all, it overwrites the input."""
    attention = block.self_attn
    heads = attended(attention, _normed(block.input_layernorm, hidden, memory), around, last, memory)
    if changes.heads is not None:
        changes.heads(heads)
    states = hidden[:, -last:].contiguous()
    change = None if changes.middle is None else changes.middle(states)
    _add(attention.o_proj, heads, states)
    if change is not None:
        change(states)
    tokens = changes.mlp_tokens
    if tokens is None:
        _add_mlp(block, states, memory)
    elif len(tokens):
        some = states.flatten(0, 1).index_select(0, tokens)
        _add_mlp(block, some, memory)
        states.view(-1, states.shape[-1]).index_copy_(0, tokens, some)
    if changes.mlp is not None:
        changes.mlp(states)
    return states


def _add(linear: nn.Linear, inputs: Tensor, states: Tensor) -> None:
    """states += linear(inputs)"""
    states.view(-1, states.shape[-1]).addmm_(inputs.view(-1, inputs.shape[-1]), linear.weight.T)
    if linear.bias is not None:
        states += linear.bias


def _add_mlp(block: Any, states: Tensor, memory: Memory) -> None:
    mlp, normed = block.mlp, _normed(block.post_attention_layernorm, states, memory)
    gate = memory.product("gate", normed, mlp.gate_proj)
    gate = functional.silu(gate, inplace=True) if type(mlp.act_fn).__name__ in _SILU else mlp.act_fn(gate)
    _add(mlp.down_proj, gate.mul_(memory.product("up", normed, mlp.up_proj)), states)


def _normed(norm: Any, states: Tensor, memory: Memory) -> Tensor:
    size = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    scale = size.square_().div_(states.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    made = memory.take("normed", states, *states.shape)
    return torch.mul(states, scale, out=made).mul_(norm.weight)
