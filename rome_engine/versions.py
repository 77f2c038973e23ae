"""What took part in a number, by version."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch


def versions(*others: str) -> dict[str, str]:
    """Versions of this package, of the libraries that compute, of others that are installed, and of Python."""
    names = ("rome-engine", "torch", "transformers", *others)
    return {name.replace("-", "_"): version(name) for name in names} | {"python": platform.python_version()}


def computed_by(device: torch.device) -> str:
    """What runs a model: the kind of device, on CUDA how float32 products are rounded, torch and transformers."""
    tf32 = f" tf32={torch.backends.cuda.matmul.allow_tf32}" if device.type == "cuda" else ""
    return f"{device.type}{tf32} torch {version('torch')} transformers {version('transformers')}"
