"""Parts of a model run with fewer arrays between their operations, where that gives what the model itself gives.

Between products of some hundred tokens a processor waits for memory: a gated MLP writes three arrays of its width, a
norm three of the model's, where one each is enough. What stands in for a part is tried on it first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Forward = Callable[[Tensor], Tensor]
_SILU = ("SiLU", "SiLUActivation")


@contextmanager
def lean(module: nn.Module) -> Iterator[None]:
    """Inside, gated MLPs and RMS norms below `module` are run leanly; no gradients are taken through them.

    Parts that somebody else has changed (offloaded ones too) are left alone, and all others are as before afterwards.
    """
    changed: list[nn.Module] = []
    try:
        for part in module.modules():
            forward = _stand_in(part)
            if forward is not None:
                part.forward = forward
                changed.append(part)
        yield
    finally:
        for part in changed:
            vars(part).pop("forward", None)


def _stand_in(part: Any) -> Forward | None:
    if "forward" in vars(part):
        return None
    if all(isinstance(getattr(part, name, None), nn.Linear) for name in ("gate_proj", "up_proj", "down_proj")):
        width, forward = part.gate_proj.in_features, partial(_gated, part)
    elif type(part).__name__.endswith("RMSNorm") and isinstance(getattr(part, "weight", None), Tensor):
        epsilon = getattr(part, "variance_epsilon", getattr(part, "eps", None))
        if part.weight.dtype != torch.float32 or not isinstance(epsilon, float):
            return None
        width, forward = len(part.weight), partial(_normed, part, epsilon)
    else:
        return None
    return forward if _agrees(part, forward, width) else None


@torch.no_grad()
def _agrees(part: Any, forward: Forward, width: int) -> bool:
    weight = next(part.parameters())
    if weight.is_meta:
        return False
    tried = torch.linspace(-2, 2, 3 * width, dtype=weight.dtype, device=weight.device).sin().view(1, 3, width)
    try:
        expected, found = part(tried), forward(tried)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def _gated(part: Any, states: Tensor) -> Tensor:
    gate = part.gate_proj(states)
    gate = functional.silu(gate, inplace=True) if type(part.act_fn).__name__ in _SILU else part.act_fn(gate)
    down: Tensor = part.down_proj(gate.mul_(part.up_proj(states)))
    return down


def _normed(part: Any, epsilon: float, states: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    scale = size.square_().div_(states.shape[-1]).add_(epsilon).rsqrt_()
    normed: Tensor = (states * scale).mul_(part.weight)
    return normed
