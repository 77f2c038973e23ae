"""One SQLite file that holds a run over facts: each fact is on the disk when it is finished, whatever happens next.

The file is locked as long as it is open (SQLite's exclusive locking, which ends with the process). Changes go through
a write-ahead log with synchronous=FULL: a fact takes seconds, so a flush for each costs nothing, and neither a kill nor
a power cut takes a finished one away.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rome_engine.errors import RomeEngineError, StorageError, TraceError
from rome_engine.trace.average import Counts, Left
from rome_engine.trace.per_fact import FactMaps

APPLICATION = 0x524F4D45  # "ROME", by which SQLite files are told apart
VERSION = 1
_TABLES = (
    "CREATE TABLE configuration (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE facts (record INTEGER PRIMARY KEY, fact TEXT, status TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', "
    "seconds REAL NOT NULL DEFAULT 0, maps BLOB)",
)
_OPEN = ("known", "failed")
"""What is still to be traced: a fact that failed is tried again."""


def check_run(path: Path, configuration: Mapping[str, Any]) -> None:
    """Say before any work that a run cannot be gone on with, judged by a part of its configuration.

    Raises as RunStore does; a file that is not there yet is fine.
    """
    if path.exists():
        RunStore(path, configuration, whole=False).close()


class RunStore:
    """A run's file, made where it is not there yet; a context manager, which closes it.

    whole: False where the configuration is only a part of what the file holds; then nothing is made.
    Raises StorageError for a file that is something else or cannot be written; TraceError where another process has it
    open, or where it was made with another configuration.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any], *, whole: bool = True) -> None:
        self.path, self._whole = path, whole
        with self._errors():
            self._sqlite = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            with self._errors():
                self._open(configuration)
        except BaseException:
            self._sqlite.close()
            raise

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self._sqlite.close()

    # Records

    @property
    def filtered(self) -> bool:
        """Whether every record has its status: which are known, and why the others are not."""
        with self._errors():
            return self._sqlite.execute("SELECT 1 FROM facts LIMIT 1").fetchone() is not None

    def keep_statuses(self, statuses: Sequence[tuple[int, str | None, str, str]]) -> None:
        """Put down (record, fact id, status, reason) of all records, all or none."""
        with self._transaction():
            self._sqlite.executemany("INSERT INTO facts (record, fact, status, reason) VALUES (?, ?, ?, ?)", statuses)

    def answered(self, limit: int | None = None) -> list[int]:
        """The records that the model answers right, in the file's order, at most the first `limit`."""
        query = "SELECT record FROM facts WHERE status IN ('known', 'traced', 'failed') ORDER BY record LIMIT ?"
        with self._errors():
            return [record for (record,) in self._sqlite.execute(query, (-1 if limit is None else limit,))]

    def open(self, limit: int | None = None) -> list[int]:
        """Those of them that are not traced yet, or failed."""
        wanted = set(self.answered(limit))
        marks = ", ".join("?" * len(_OPEN))
        query = f"SELECT record FROM facts WHERE status IN ({marks}) ORDER BY record"
        with self._errors():
            return [record for (record,) in self._sqlite.execute(query, _OPEN) if record in wanted]

    def finish(self, record: int, maps: FactMaps, seconds: float) -> None:
        """Put down a traced fact."""
        self._set(record, "traced", "", seconds, maps.to_bytes())

    def fail(self, record: int, reason: str, seconds: float) -> None:
        """Put down that a fact's trace raised an error."""
        self._set(record, "failed", reason, seconds, None)

    # Results

    def traced(self, limit: int | None = None) -> list[tuple[str | None, FactMaps]]:
        """The id and the maps of each traced fact among the first `limit` known ones, in the file's order."""
        wanted = set(self.answered(limit))
        query = "SELECT record, fact, maps FROM facts WHERE status = 'traced' ORDER BY record"
        with self._errors():
            rows = self._sqlite.execute(query)
            return [(fact, FactMaps.from_bytes(maps)) for record, fact, maps in rows if record in wanted]

    def counts(self, limit: int | None = None) -> Counts:
        """What became of the records; beyond the limit all known ones are waiting."""
        wanted = set(self.answered(limit))
        found = {"records": 0, "malformed": 0, "skipped": 0, "unknown": 0, "failed": 0, "waiting": 0, "traced": 0}
        with self._errors():
            for record, status in self._sqlite.execute("SELECT record, status FROM facts"):
                found["records"] += 1
                known = status in ("known", "failed", "traced")
                found["waiting" if known and (record not in wanted or status == "known") else status] += 1
        return Counts(known=found["failed"] + found["waiting"] + found["traced"], **found)

    def left(self, limit: int | None = None) -> list[Left]:
        """The records that are not in the averages, and why; not those that wait."""
        wanted = set(self.answered(limit))
        query = "SELECT record, fact, status, reason FROM facts WHERE status NOT IN ('known', 'traced') ORDER BY record"
        with self._errors():
            found = [Left(*row) for row in self._sqlite.execute(query)]
        return [one for one in found if one.status != "failed" or one.record in wanted]

    def seconds(self, limit: int | None = None) -> float:
        """The time that tracing took, over all sittings."""
        wanted = set(self.answered(limit))
        with self._errors():
            rows = self._sqlite.execute("SELECT record, seconds FROM facts ORDER BY record")
            return float(sum(seconds for record, seconds in rows if record in wanted))

    # The file

    def _open(self, configuration: Mapping[str, Any]) -> None:
        self._sqlite.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._sqlite.execute("PRAGMA synchronous = FULL")
        application = int(self._sqlite.execute("PRAGMA application_id").fetchone()[0])
        empty = self._sqlite.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        if not empty and application != APPLICATION:
            raise StorageError(f"{self.path} is no run of trace-facts: name another file with --run")
        self._sqlite.execute("PRAGMA journal_mode = WAL")
        with self._transaction():  # whose lock is kept until the file is closed
            if empty and self._whole:
                self._make(configuration)
            elif not empty:
                self._check(configuration)

    def _make(self, configuration: Mapping[str, Any]) -> None:
        for table in _TABLES:
            self._sqlite.execute(table)
        self._sqlite.execute(f"PRAGMA application_id = {APPLICATION}")
        self._sqlite.execute(f"PRAGMA user_version = {VERSION}")
        rows = [(name, json.dumps(value, sort_keys=True)) for name, value in configuration.items()]
        self._sqlite.executemany("INSERT INTO configuration VALUES (?, ?)", rows)

    def _check(self, configuration: Mapping[str, Any]) -> None:
        version = int(self._sqlite.execute("PRAGMA user_version").fetchone()[0])
        if version != VERSION:
            raise TraceError(f"{self.path} was made by another version of rome-engine: name another file with --run")
        kept = {
            name: json.loads(value) for name, value in self._sqlite.execute("SELECT name, value FROM configuration")
        }
        given = json.loads(json.dumps(dict(configuration)))
        for name in (*given, *(name for name in kept if self._whole and name not in given)):
            if kept.get(name) != given.get(name):
                same = f"OMP_NUM_THREADS={kept.get(name)}" if name == "threads" else "the same"
                raise TraceError(
                    f"{self.path} was made with {name} {_short(kept.get(name))}, and now it is "
                    f"{_short(given.get(name))}: run with {same}, or name another file with --run"
                )

    def _set(self, record: int, status: str, reason: str, seconds: float, maps: bytes | None) -> None:
        with self._errors():
            self._sqlite.execute(
                "UPDATE facts SET status = ?, reason = ?, seconds = ?, maps = ? WHERE record = ?",
                (status, reason, seconds, maps, record),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._sqlite.execute("BEGIN EXCLUSIVE")
            try:
                yield
            except BaseException:
                self._sqlite.execute("ROLLBACK")
                raise
            self._sqlite.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as the package's own."""
        try:
            yield
        except sqlite3.Error as error:
            raise _as_ours(error, self.path) from error


def _as_ours(error: sqlite3.Error, path: Path) -> RomeEngineError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return TraceError(f"another process is writing the run {path}: wait for it, or name another file with --run")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StorageError(f"{path} is damaged or no run of trace-facts ({error}): name another file with --run")
    return StorageError(f"cannot write the run {path}: {error} (choose a folder that exists, is writable and has room)")


def _short(value: Any) -> str:
    """A value for a message: a hash by its beginning."""
    text = "unset" if value is None else value if isinstance(value, str) else json.dumps(value)
    return f"{text[:12]}…" if len(text) == 64 else text if len(text) <= 80 else f"{text[:77]}…"
