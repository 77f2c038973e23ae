"""Weights that accelerate keeps elsewhere, on disk or in another memory, and brings in only while their module runs.

Such weights are placeholders on the device "meta" at all other times. A module that holds some has a hook of
accelerate, which knows where they are kept and where the module computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rome_engine.errors import UnsupportedModelError


def device_of(module: nn.Module) -> torch.device:
    """Where a module with weights computes."""
    weight = next(module.parameters())
    hook = _hook(module)
    return weight.device if hook is None else _as_device(hook.execution_device)


def is_offloaded(module: nn.Module) -> bool:
    """Whether weights of this module, or of one below it, are kept elsewhere."""
    return any(weight.device.type == "meta" for weight in module.parameters())


@contextmanager
def in_memory(*modules: nn.Module) -> Iterator[None]:
    """Inside, the weights of these modules and of all below them are there, fetched once; then they are put away again.

    Raises UnsupportedModelError for weights that nobody keeps.
    """
    fetched: list[tuple[nn.Module, Any]] = []
    try:
        for part in (part for module in modules for part in module.modules()):
            hook = _hook(part)
            if hook is not None:
                fetched.append((part, hook))
                hook.pre_forward(part)
                hook.offload = False  # what runs inside neither fetches them again nor puts them away
        for module in modules:
            for name, weight in module.named_parameters():
                if weight.device.type == "meta":
                    raise _nowhere(name)
        yield
    finally:
        for part, hook in fetched:
            hook.offload = True
            hook.post_forward(part, None)


def unkept(root: nn.Module) -> list[str]:
    """The names of weights that are not there, and that nothing can fetch when their module runs."""
    return [
        f"{path}.{name}".lstrip(".")
        for path, module in root.named_modules()
        for name, weight in module.named_parameters(recurse=False)
        if (weight.device.type == "meta" if _hook(module) is None else name not in _hook(module).weights_map)
    ]


def stored(root: nn.Module, name: str, placeholder: Tensor) -> Tensor:
    """The weight or buffer of this dotted name, of which `placeholder` may be all that is there.

    One that is kept elsewhere is read as a copy. Raises UnsupportedModelError for one that nobody keeps.
    """
    if placeholder.device.type != "meta":
        return placeholder
    path, _, own = name.rpartition(".")
    hook = _hook(root.get_submodule(path))
    if hook is None:
        raise _nowhere(name)
    kept: Tensor = hook.weights_map[own]
    return kept.to(placeholder.dtype)


def _hook(module: nn.Module) -> Any:
    """accelerate's hook that fetches the module's own weights; None where it has none, or they are held in memory."""
    own = vars(module).get("_hf_hook")
    hooks = getattr(own, "hooks", (own,))  # several may be chained
    return next((hook for hook in hooks if getattr(hook, "offload", False)), None)


def _as_device(name: Any) -> torch.device:
    return name if isinstance(name, torch.device) else torch.device(name)


def _nowhere(name: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"the weights {name} have no content: load the model with its weights")
