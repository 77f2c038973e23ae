"""One SQLite file that holds a run over facts: each fact is on the disk when it is finished, whatever happens next.

A fact takes seconds, so a flush for each costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rome_engine.errors import TraceError
from rome_engine.sqlite import SqliteFile, difference
from rome_engine.trace.average import Counts, Left
from rome_engine.trace.per_fact import FactMaps

APPLICATION = 0x524F4D45  # "ROME", by which SQLite files are told apart
VERSION = 1
CONFIG = "config"
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


class RunStore(SqliteFile):
    """A run's file, made where it is not there yet and locked until it is closed.

    whole: False where the configuration is only a part of what the file holds.
    Raises as `SqliteFile` does; TraceError for one that was made with another configuration.
    """

    def __init__(self, path: Path, configuration: Mapping[str, Any], *, whole: bool = True) -> None:
        super().__init__(
            path,
            kind="run of trace-facts",
            application=APPLICATION,
            version=VERSION,
            tables=_TABLES,
            exclusive=True,
            another="name another file with --run",
        )
        try:
            self._begin(configuration, whole)
        except BaseException:
            self.close()
            raise

    # Records

    @property
    def filtered(self) -> bool:
        """Whether every record has its status: which are known, and why the others are not."""
        with self.errors():
            return self.sqlite.execute("SELECT 1 FROM facts LIMIT 1").fetchone() is not None

    def keep_statuses(self, statuses: Sequence[tuple[int, str | None, str, str]]) -> None:
        """Put down (record, fact id, status, reason) of all records, all or none."""
        with self.transaction():
            self.sqlite.executemany("INSERT INTO facts (record, fact, status, reason) VALUES (?, ?, ?, ?)", statuses)

    def answered(self, limit: int | None = None) -> list[int]:
        """The records that the model answers right, in the file's order, at most the first `limit`."""
        query = "SELECT record FROM facts WHERE status IN ('known', 'traced', 'failed') ORDER BY record LIMIT ?"
        with self.errors():
            return [record for (record,) in self.sqlite.execute(query, (-1 if limit is None else limit,))]

    def open(self, limit: int | None = None) -> list[int]:
        """Those of them that are not traced yet, or failed."""
        wanted = set(self.answered(limit))
        marks = ", ".join("?" * len(_OPEN))
        query = f"SELECT record FROM facts WHERE status IN ({marks}) ORDER BY record"
        with self.errors():
            return [record for (record,) in self.sqlite.execute(query, _OPEN) if record in wanted]

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
        with self.errors():
            rows = self.sqlite.execute(query)
            return [(fact, FactMaps.from_bytes(maps)) for record, fact, maps in rows if record in wanted]

    def counts(self, limit: int | None = None) -> Counts:
        """What became of the records; beyond the limit all known ones are waiting."""
        wanted = set(self.answered(limit))
        found = {"records": 0, "malformed": 0, "skipped": 0, "unknown": 0, "failed": 0, "waiting": 0, "traced": 0}
        with self.errors():
            for record, status in self.sqlite.execute("SELECT record, status FROM facts"):
                found["records"] += 1
                known = status in ("known", "failed", "traced")
                found["waiting" if known and (record not in wanted or status == "known") else status] += 1
        return Counts(known=found["failed"] + found["waiting"] + found["traced"], **found)

    def left(self, limit: int | None = None) -> list[Left]:
        """The records that are not in the averages, and why; not those that wait."""
        wanted = set(self.answered(limit))
        query = "SELECT record, fact, status, reason FROM facts WHERE status NOT IN ('known', 'traced') ORDER BY record"
        with self.errors():
            found = [Left(*row) for row in self.sqlite.execute(query)]
        return [one for one in found if one.status != "failed" or one.record in wanted]

    def seconds(self, limit: int | None = None) -> float:
        """The time that tracing took, over all sittings."""
        wanted = set(self.answered(limit))
        with self.errors():
            rows = self.sqlite.execute("SELECT record, seconds FROM facts ORDER BY record")
            return float(sum(seconds for record, seconds in rows if record in wanted))

    def _begin(self, configuration: Mapping[str, Any], whole: bool) -> None:
        """Put down what the run is, or see that it is the one in the file."""
        with self.errors():
            rows = self.sqlite.execute("SELECT name, value FROM configuration").fetchall()
        kept = {name: json.loads(value) for name, value in rows}
        if not kept and whole:
            new = [(name, json.dumps(value, sort_keys=True)) for name, value in configuration.items()]
            with self.transaction():
                self.sqlite.executemany("INSERT INTO configuration VALUES (?, ?)", new)
        elif kept:
            if CONFIG not in kept:  # an earlier version did not put it down
                configuration = {name: value for name, value in configuration.items() if name != CONFIG}
            told = difference(kept if whole else {name: kept.get(name) for name in configuration}, configuration)
            if told is not None:
                raise TraceError(f"{self.path} {told}")

    def _set(self, record: int, status: str, reason: str, seconds: float, maps: bytes | None) -> None:
        with self.transaction():
            self.sqlite.execute(
                "UPDATE facts SET status = ?, reason = ?, seconds = ?, maps = ? WHERE record = ?",
                (status, reason, seconds, maps, record),
            )
