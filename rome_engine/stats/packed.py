"""A symmetric matrix's upper triangle in a safetensors file, written atomically, checked when read.

The header holds one JSON object, so that equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rome_engine.errors import StatisticsError, StorageError
from rome_engine.files import write_whole

_HEADER = "rome_engine.second_moment"
_TENSOR = "upper_triangle_of_sum"
_VERSION = 1


def pack(matrix: Float[Tensor, "d d"]) -> Float[Tensor, " packed"]:
    """The upper triangle with the diagonal, row by row."""
    return matrix[torch.ones_like(matrix, dtype=torch.bool).triu()]


def unpack(packed: Float[Tensor, " packed"], d: int) -> Float[Tensor, "d d"]:
    """The upper triangle in place, zeros below it."""
    upper = torch.ones(d, d, dtype=torch.bool, device=packed.device).triu()
    return torch.zeros(d, d, dtype=packed.dtype, device=packed.device).masked_scatter_(upper, packed)


def write(path: Path, packed: Float[Tensor, " packed"], header: dict[str, Any]) -> None:
    """Write a packed triangle with its header: the whole file or none.

    Raises StorageError when the folder cannot be written or is full.
    """
    packed = packed.detach().cpu().contiguous()
    about = {**header, "version": _VERSION, "sha256": _digest(packed)}
    content = save({_TENSOR: packed}, metadata={_HEADER: json.dumps(about, sort_keys=True)})
    write_bytes(path, content)


def read(path: Path) -> tuple[Float[Tensor, " packed"], dict[str, Any]]:
    """A file's packed triangle and header.

    Raises StatisticsError for a file that is missing, damaged, or something else; StorageError where it may not be
    read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, file.metadata())
            packed: Tensor = file.get_tensor(_TENSOR)
    except FileNotFoundError as error:
        raise StatisticsError(f"there is no file {path}: check the path, or collect second moments first") from error
    except (SafetensorError, ValueError) as error:
        raise StatisticsError(
            f"{path} holds no second moment or is damaged ({error}): delete it and collect again"
        ) from error
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read ({error.strerror or error}): check that it is a file you may read"
        ) from error
    if packed.ndim != 1 or packed.dtype not in (torch.float32, torch.float64) or _digest(packed) != header["sha256"]:
        raise StatisticsError(
            f"{path} is damaged (its content is not what its header says): delete it and collect again"
        )
    return packed, header


def read_header(path: Path) -> dict[str, Any]:
    """A file's header alone, at no cost; errors as in `read`."""
    try:
        with safe_open(path, framework="pt") as file:
            return _header(path, file.metadata())
    except (SafetensorError, ValueError, OSError) as error:
        raise StatisticsError(
            f"{path} holds no second moment or is damaged ({error}): delete it and collect again"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, making its folder. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error} (choose a folder that is writable and has room)"
        ) from error
    write_whole(path, content)


def _header(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    header = json.loads((metadata or {}).get(_HEADER, "null"))
    if not isinstance(header, dict):
        raise ValueError("its header is not of this package")
    if header.get("version") != _VERSION:
        raise StatisticsError(
            f"{path} has the format version {header.get('version')}, known is {_VERSION}: update rome-engine"
        )
    return header


def _digest(packed: Tensor) -> str:
    return hashlib.sha256(packed.contiguous().view(torch.uint8).numpy().data).hexdigest()
