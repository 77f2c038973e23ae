"""One SQLite file as a store of the package: known by its mark, locked or shared, its errors the package's own."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rome_engine.errors import InUseError, NoRoomError, StorageError

_IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_DAMAGED = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR)  # the last: a table is missing
_NO_ROOM = (
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN),
    *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH),
)
_MARKS = (
    "SELECT NOT EXISTS (SELECT 1 FROM sqlite_master), application_id, user_version "
    "FROM pragma_application_id, pragma_user_version"
)

Opened = TypeVar("Opened", bound="SqliteFile")


class SqliteFile:
    """An open file of a kind; a context manager, which closes it. Its tables are made where it is new.

    kind: what it is, for messages. application: a number by which SQLite files are told apart. exclusive: whether it
    is locked as long as it is open (the lock ends with the process), or any number of processes may use it. wait:
    seconds for another process's lock. reading: whether it is only looked at, with all others that do; then it must be
    there and nothing is made or changed, so it may lie where nothing can be written. another, damaged: the remedy for a
    file that is something else, and for one that is damaged (the same, where left out).
    Changes go through a write-ahead log and are on the disk when they are finished: neither a kill nor a power cut
    takes them away.
    Raises InUseError, NoRoomError, StorageError.
    """

    def __init__(
        self,
        path: Path,
        *,
        kind: str,
        application: int,
        version: int,
        tables: tuple[str, ...],
        exclusive: bool,
        wait: float = 0.0,
        reading: bool = False,
        another: str = "name another file",
        damaged: str | None = None,
    ) -> None:
        self.path, self.kind = path, kind
        self._another, self._damaged = another, damaged or another
        address = f"{path.absolute().as_uri()}?{self._mode(reading)}"
        with self.errors():
            self.sqlite = sqlite3.connect(address, uri=True, timeout=wait, isolation_level=None)
        try:
            with self.errors():
                if exclusive and not reading:
                    self.sqlite.execute("PRAGMA locking_mode = EXCLUSIVE")
                empty = self._look(application, version)
                if reading and empty:
                    raise StorageError(f"{path} is no {kind}, it is empty: {another}")
                if not reading:
                    self._prepare(application, version, tables if empty else (), exclusive)
        except BaseException:
            self.sqlite.close()
            raise

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self.sqlite.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes of the block, or none."""
        with self.errors():
            try:
                self.sqlite.execute("BEGIN IMMEDIATE")
                yield
                self.sqlite.execute("COMMIT")
            except BaseException:
                if self.sqlite.in_transaction:  # SQLite itself takes some failures back
                    self.sqlite.execute("ROLLBACK")
                raise

    @contextmanager
    def errors(self) -> Iterator[None]:
        """SQLite's errors as the package's own, but those that are a mistake of the caller's."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _IN_USE:
                raise InUseError(
                    f"another process is using the {self.kind} {self.path}: wait for it, or {self._another}"
                ) from error
            if code in _DAMAGED:
                raise StorageError(f"{self.path} is damaged or no {self.kind} ({error}): {self._damaged}") from error
            if code in _NO_ROOM:
                raise NoRoomError(
                    f"cannot use the {self.kind} {self.path}: {error} (choose a folder that exists, is writable and "
                    "has room)"
                ) from error
            raise

    def _mode(self, reading: bool) -> str:
        """How SQLite is to open the file."""
        if not reading:
            return "mode=rwc"
        if os.access(self.path, os.W_OK) and os.access(self.path.absolute().parent, os.W_OK):
            return "mode=rw"  # readers lock the file too, by files beside it
        log = self.path.with_name(f"{self.path.name}-wal")
        if log.exists():
            raise StorageError(
                f"the {self.kind} {self.path} is being written, or its writer was killed, and its folder may not be "
                f"written in: wait for it, or copy it with {log.name} to a folder of your own"
            )
        return "mode=ro&immutable=1"

    def _look(self, application: int, version: int) -> bool:
        """Whether nothing is in it yet. Raises StorageError for a file of another kind or version."""
        empty, marked, made = self.sqlite.execute(_MARKS).fetchone()
        if not empty and marked != application:
            raise StorageError(f"{self.path} is no {self.kind}: {self._another}")
        if not empty and made != version:
            raise StorageError(f"{self.path} was made by another version of rome-engine: {self._another}")
        return bool(empty)

    def _prepare(self, application: int, version: int, tables: tuple[str, ...], exclusive: bool) -> None:
        self.sqlite.execute("PRAGMA synchronous = FULL")
        self.sqlite.execute("PRAGMA journal_mode = WAL")
        if not tables and not exclusive:
            return
        with self.transaction():  # where it is exclusive its lock is kept until the file is closed
            if tables and self._look(application, version):  # no other process has made them meanwhile
                for table in tables:
                    self.sqlite.execute(table)
                self.sqlite.execute(f"PRAGMA application_id = {application}")
                self.sqlite.execute(f"PRAGMA user_version = {version}")


def difference(kept: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """What a run was made with and what it is to go on with, where they differ first, and the remedy; None for nothing.

    Both are JSON objects; a name that one of them lacks is unset there.
    """
    for name, old, new in _differences(kept, json.loads(json.dumps(dict(given)))):
        same = f"OMP_NUM_THREADS={old}" if name == "threads" else "the same"
        return (
            f"was made with {name} {_short(old)}, and now it is {_short(new)}: run with {same}, or name another file "
            "with --run"
        )
    return None


def _differences(kept: Any, given: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ, by their innermost names."""
    if isinstance(kept, dict) and isinstance(given, dict):
        for key in (*kept, *(key for key in given if key not in kept)):
            yield from _differences(kept.get(key), given.get(key), f"{name}.{key}" if name else key)
    elif kept != given:
        yield name, kept, given


def _short(value: Any) -> str:
    """A value for a message: a hash by its beginning."""
    text = "unset" if value is None else value if isinstance(value, str) else json.dumps(value)
    return f"{text[:12]}…" if len(text) == 64 else text if len(text) <= 80 else f"{text[:77]}…"
