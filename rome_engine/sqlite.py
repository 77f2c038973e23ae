"""One SQLite file as a store of the package: known by its mark, locked or shared, its errors the package's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rome_engine.errors import InUseError, NoRoomError, StorageError


class SqliteFile:
    """An open file of a kind; a context manager, which closes it. Its tables are made where it is new.

    kind: what it is, for messages. application: a number by which SQLite files are told apart. exclusive: whether it
    is locked as long as it is open (the lock ends with the process), or any number of processes may use it.
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
    ) -> None:
        self.path, self.kind = path, kind
        with self.errors():
            self.sqlite = sqlite3.connect(path, timeout=wait, isolation_level=None)
        try:
            with self.errors():
                self._open(application, version, tables, exclusive)
        except BaseException:
            self.sqlite.close()
            raise

    def __enter__(self) -> Any:
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
            self.sqlite.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.sqlite.execute("COMMIT")
            except BaseException:
                if self.sqlite.in_transaction:  # SQLite itself takes some failures back
                    self.sqlite.execute("ROLLBACK")
                raise

    @contextmanager
    def errors(self) -> Iterator[None]:
        """SQLite's errors as the package's own."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise InUseError(
                    f"another process is using the {self.kind} {self.path}: wait for it, or name another file"
                ) from error
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise StorageError(f"{self.path} is damaged or no {self.kind} ({error}): name another file") from error
            raise NoRoomError(
                f"cannot use the {self.kind} {self.path}: {error} (choose a folder that exists, is writable and has "
                "room)"
            ) from error

    def _open(self, application: int, version: int, tables: tuple[str, ...], exclusive: bool) -> None:
        if exclusive:
            self.sqlite.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.sqlite.execute("PRAGMA synchronous = FULL")
        marked = int(self.sqlite.execute("PRAGMA application_id").fetchone()[0])
        empty = self.sqlite.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        if not empty and marked != application:
            raise StorageError(f"{self.path} is no {self.kind}: name another file")
        if not empty and int(self.sqlite.execute("PRAGMA user_version").fetchone()[0]) != version:
            raise StorageError(f"{self.path} was made by another version of rome-engine: name another file")
        self.sqlite.execute("PRAGMA journal_mode = WAL")
        if not empty and not exclusive:
            return
        with self.transaction():  # where it is exclusive its lock is kept until the file is closed
            if empty:
                for table in tables:
                    self.sqlite.execute(table)
                self.sqlite.execute(f"PRAGMA application_id = {application}")
                self.sqlite.execute(f"PRAGMA user_version = {version}")
