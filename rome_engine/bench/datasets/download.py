"""Data sets fetched by name, once, checked, and kept in the user's cache folder.

Nothing half-fetched or of another content than expected is ever kept.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from rome_engine.bench.datasets.sources import Published, Source
from rome_engine.errors import StorageError
from rome_engine.files import write_whole
from rome_engine.model.embedded import cache_home

FOLDER = "datasets"
TIMEOUT = 30.0
"""Seconds of silence after which a server is given up."""
WAITS = (1.0, 3.0, 9.0)
"""Seconds before each further try."""

Told = Callable[[str, int, int | None], None]
"""Told a file's name, how many bytes of it are there, and how many there will be where that is known."""

_CHUNK = 1 << 18
_BROKEN = (OSError, http.client.HTTPException)


def download(
    source: Source,
    folder: Path | None = None,
    *,
    told: Told | None = None,
    timeout: float = TIMEOUT,
    waits: tuple[float, ...] = WAITS,
) -> Path:
    """The path of a data set's file, or of the folder of its files; what is not there yet is fetched.

    folder: where the data sets are kept; the user's cache folder where none is named. A server's errors (5xx), broken
    connections and silence are tried again after each of `waits` seconds; an address that is unknown or refused is not.
    Raises StorageError for what cannot be fetched or kept, or is not the expected content.
    """
    kept = (cache_home() / FOLDER if folder is None else folder) / source.name
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make {kept}: {error.strerror or error}; XDG_CACHE_HOME moves the cache folder"
        ) from error
    for file in source.files:
        _ensure(file, kept / file.file, told, timeout, waits)
    return kept if len(source.files) > 1 else kept / source.files[0].file


def forget(source: Source, folder: Path | None = None) -> None:
    """Remove what was fetched of a data set without a published sha256: it turned out to be something else."""
    kept = (cache_home() / FOLDER if folder is None else folder) / source.name
    for file in source.files:
        if file.sha256 is None:
            for path in (kept / file.file, kept / f"{file.file}.sha256"):
                path.unlink(missing_ok=True)


def _ensure(file: Published, path: Path, told: Told | None, timeout: float, waits: tuple[float, ...]) -> None:
    noted = path.with_name(f"{path.name}.sha256")
    expected = file.sha256 or _noted(noted)
    if path.is_file():
        found = hashlib.sha256(_read(path)).hexdigest()
        if expected is not None and found != expected:
            raise StorageError(f"{path} was changed since it was fetched: remove it, and it is fetched again")
    else:
        content = _fetch(file.address, told, timeout, waits)
        found = _checked(file, content, expected, noted)
        write_whole(path, content)
    if expected is None:
        write_whole(noted, f"{found}\n".encode())


def _checked(file: Published, content: bytes, expected: str | None, noted: Path) -> str:
    """The sha256 of what was fetched. Raises StorageError where it is not what it should be."""
    found = hashlib.sha256(content).hexdigest()
    if expected is not None and found != expected:
        otherwise = "" if file.sha256 else f", or remove {noted} to take the new one"
        raise StorageError(
            f"{file.address} is not the expected file (sha256 {found}, expected {expected}); nothing of it was kept: "
            f"try again, or get it elsewhere and give it with --data PATH{otherwise}"
        )
    # A page that asks to log in, or the pointer to a large file, must not become what all later ones are checked with.
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"[", b"{"):
        raise StorageError(
            f"{file.address} gave something that is no JSON; nothing of it was kept: get it elsewhere, and give it "
            "with --data PATH"
        )
    return found


def _fetch(address: str, told: Told | None, timeout: float, waits: tuple[float, ...]) -> bytes:
    for wait in (*waits, None):
        try:
            return _try(address, told, timeout)
        except _BROKEN as error:
            if wait is None or not _passing(error):
                raise StorageError(
                    f"cannot fetch {address} ({_reason(error)}): is there a network? get the file elsewhere, and give "
                    "it with --data PATH"
                ) from error
            time.sleep(wait)
    raise AssertionError("the last try ends it")


def _try(address: str, told: Told | None, timeout: float) -> bytes:
    request = Request(address, headers={"User-Agent": "rome-engine"})  # some servers refuse Python's own
    with urlopen(request, timeout=timeout) as answer:
        given = answer.headers.get("Content-Length")
        whole = int(given) if given and given.isdigit() else None
        content = bytearray()
        while chunk := answer.read(_CHUNK):
            content += chunk
            if told is not None:
                told(address.rpartition("/")[2], len(content), whole)
    if whole is not None and len(content) != whole:
        raise http.client.IncompleteRead(b"", whole - len(content))
    return bytes(content)


def _passing(error: Exception) -> bool:
    """Whether it may be otherwise in a moment."""
    if isinstance(error, HTTPError):
        return error.code >= 500 or error.code == 429
    if isinstance(error, URLError):  # a name that cannot be looked up is no network
        return not isinstance(error.reason, socket.gaierror)
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return " ".join(f"the server says {error.code} {error.reason}".split())
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut"
    inner = error.reason if isinstance(error, URLError) else error
    return " ".join(str(getattr(inner, "strerror", None) or inner).split()) or type(inner).__name__


def _noted(path: Path) -> str | None:
    return _read(path).decode("ascii", "replace").strip() if path.is_file() else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(
            f"cannot read {path}: {error.strerror or error} (remove it, and it is fetched again)"
        ) from error
