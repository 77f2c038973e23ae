"""A symmetric matrix's upper triangle in a sealed file of its own.

In half precision it is stored as correlations, which are all between −1 and 1, and the roots of the diagonal: for a
matrix as near to singular as its correlations are, and no nearer because its numbers are of unlike size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import StatisticsError
from rome_engine.stats import sealed

_KIND = "rome_engine.second_moment"
_TENSOR = "upper_triangle_of_sum"
_CORRELATIONS, _ROOTS = "upper_triangle_of_correlations", "roots_of_diagonal"


def pack(matrix: Float[Tensor, "d d"]) -> Float[Tensor, " packed"]:
    """The upper triangle with the diagonal, row by row."""
    return matrix[torch.ones_like(matrix, dtype=torch.bool).triu()]


def unpack(packed: Float[Tensor, " packed"], d: int) -> Float[Tensor, "d d"]:
    """The upper triangle in place, zeros below it."""
    upper = torch.ones(d, d, dtype=torch.bool, device=packed.device).triu()
    return torch.zeros(d, d, dtype=packed.dtype, device=packed.device).masked_scatter_(upper, packed)


def write(path: Path, packed: Float[Tensor, " packed"], header: dict[str, Any]) -> None:
    """Write a packed triangle with its header; errors as in `sealed.write`."""
    sealed.write(path, _KIND, {_TENSOR: packed}, header)


def write_half(path: Path, matrix: Float[Tensor, "d d"], header: dict[str, Any]) -> None:
    """Write a positive matrix in half precision, with its header; errors as in `sealed.write`."""
    roots = matrix.diagonal().sqrt()
    shared = roots.clamp_min(torch.finfo(roots.dtype).tiny)  # a number that is never active correlates with none
    correlations = pack(matrix / shared / shared[:, None]).half()
    sealed.write(path, _KIND, {_CORRELATIONS: correlations, _ROOTS: roots}, header)


def read(path: Path) -> tuple[Float[Tensor, " packed"], dict[str, Any]]:
    """A file's packed triangle and header; errors as in `sealed.read`."""
    tensors, header = sealed.read(path, _KIND)
    if set(tensors) == {_CORRELATIONS, _ROOTS}:
        roots, correlations = tensors[_ROOTS].double(), tensors[_CORRELATIONS].double()
        if correlations.numel() == len(roots) * (len(roots) + 1) // 2:
            return correlations * pack(torch.outer(roots, roots)), header
    packed = tensors.get(_TENSOR)
    if packed is None or packed.ndim != 1 or packed.dtype not in (torch.float32, torch.float64):
        raise StatisticsError(f"{path} is damaged (it holds no triangle): delete it and collect again")
    return packed, header


def read_header(path: Path) -> dict[str, Any]:
    """A file's header alone, at no cost; errors as in `sealed.read_header`."""
    return sealed.read_header(path, _KIND)
