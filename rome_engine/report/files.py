"""Writing a report's file so that it is there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from rome_engine.errors import StorageError


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` at once: what was there before stays until all of it is on the disk.

    Raises StorageError where the file cannot be written; then neither `path` has changed nor a temporary file is left.
    """
    try:
        target = path.resolve()  # a link goes on pointing to the file it names
        # Opened by hand and not by tempfile, whose files no one else may read.
        temporary = target.with_name(f".rome-engine-{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot write {path}: {reason} (choose a folder that exists, is writable and has room)"
        ) from error


def suffix_among(path: Path, known: Sequence[str]) -> str:
    """The path's suffix in lower case. Raises StorageError, naming the known ones, for any other."""
    suffix = path.suffix.lower()
    if suffix not in known:
        named = f"ends in {path.suffix!r}" if path.suffix else "has no suffix"
        raise StorageError(
            f"cannot write {path}: it {named}, and the formats that can be written are {', '.join(known)}"
        )
    return suffix
