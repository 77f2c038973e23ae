"""Tensors and one JSON header in a safetensors file, written whole or not at all, checked when read.

Equal content gives equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rome_engine.errors import StatisticsError, StorageError
from rome_engine.files import write_whole

_VERSION = 1


def write(path: Path, kind: str, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write tensors with their header under the name `kind`.

    Raises StorageError when the folder cannot be written or is full.
    """
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {**header, "version": _VERSION, "sha256": _digest(values)}
    about["header_sha256"] = _header_digest(about)
    write_bytes(path, save(values, metadata={kind: json.dumps(about, sort_keys=True)}))


def read(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's tensors and header.

    Raises StatisticsError for a file that is missing, damaged, or something else; StorageError where it may not be
    read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(path, kind, file.metadata())
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise _absent(path) from error
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read ({error.strerror or error}): check that it is a file you may read"
        ) from error
    if _digest(tensors) != header["sha256"]:
        raise StatisticsError(
            f"{path} is damaged (its content is not what its header says): delete it and collect again"
        )
    return tensors, header


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """A file's header alone, at no cost; errors as in `read`, StatisticsError where it may not be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return _header(path, kind, file.metadata())
    except FileNotFoundError as error:
        raise _absent(path) from error
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged(path, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, making its folder. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error} (choose a folder that is writable and has room)"
        ) from error
    write_whole(path, content)


def _header(path: Path, kind: str, metadata: dict[str, str] | None) -> dict[str, Any]:
    header = json.loads((metadata or {}).get(kind, "null"))
    if not isinstance(header, dict):
        raise ValueError("its header is not of this kind")
    if header.get("version") != _VERSION:
        raise StatisticsError(
            f"{path} has the format version {header.get('version')}, known is {_VERSION}: update rome-engine"
        )
    # The first files had no such sum.
    if header.get("header_sha256", None) not in (None, _header_digest(header)):
        raise ValueError("its header was changed")
    return header


def _absent(path: Path) -> StatisticsError:
    return StatisticsError(f"there is no file {path}: check the path, or collect second moments first")


def _damaged(path: Path, error: Exception) -> StatisticsError:
    return StatisticsError(f"{path} holds no second moment or is damaged ({error}): delete it and collect again")


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _header_digest(header: dict[str, Any]) -> str:
    rest = {name: value for name, value in header.items() if name != "header_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
