"""Files and folders that are there whole or not at all, and results as JSON."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rome_engine.errors import StorageError


def expanded(path: str) -> Path:
    """The path, ~ in it resolved; one of a user that there is not stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file at once: what was there before stays until all of the new content is on the disk.

    Raises StorageError where it cannot be written; nothing is left behind then.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _storage_error(path, error) from error


@contextmanager
def folder_whole(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when the block ends well and is gone otherwise.

    Raises StorageError where `path` is a file or a folder that is not empty, or where the disk refuses.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StorageError(f"{path} exists already: choose another folder, or remove it first")
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            temporary.mkdir(parents=True)
            yield temporary
            temporary.replace(target)
        finally:
            if temporary.exists():
                shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise _storage_error(path, error) from error


def _storage_error(path: Path, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return StorageError(f"cannot write {path}: {reason} (choose a folder that exists, is writable and has room)")


def suffix_among(path: Path, known: Sequence[str]) -> str:
    """The path's suffix in lower case. Raises StorageError, naming the known ones, for any other."""
    suffix = path.suffix.lower()
    if suffix not in known:
        named = f"ends in {path.suffix!r}" if path.suffix else "has no suffix"
        raise StorageError(
            f"cannot write {path}: it {named}, and the formats that can be written are {', '.join(known)}"
        )
    return suffix


def plain(value: Any) -> Any:
    """The value in lists and dictionaries: arrays, tuples, mappings and dataclasses, whatever lies within them."""
    match value:
        case Mapping():
            return {name: plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
        case _:
            return value.tolist() if hasattr(value, "tolist") else value  # numpy takes long to import


def finite(value: Any) -> Any:
    """The same JSON value with null in the place of numbers that are not finite, which JSON does not know."""
    match value:
        case float():
            return value if isfinite(value) else None
        case dict():
            return {str(name): finite(item) for name, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case _:
            return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value with `finite` numbers as UTF-8, whole or not at all; what JSON does not know is its text.

    Raises StorageError where it cannot be written.
    """
    text = json.dumps(finite(value), ensure_ascii=False, allow_nan=False, default=str)
    write_whole(path, (text + "\n").encode("utf-8", "backslashreplace"))
