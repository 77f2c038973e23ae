"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from rome_engine.errors import StorageError


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
