"""A run's file: its configuration and environment, every record's rows, and what it needs to go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from rome_engine.bench.run import Row, Run
from rome_engine.errors import InUseError, NoRoomError, RunError, StorageError
from rome_engine.files import finite
from rome_engine.sqlite import SqliteFile, difference

APPLICATION = 0x524F4D42  # "ROMB", by which SQLite files are told apart
VERSION = 1
_TABLES = (
    "CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE records (position INTEGER NOT NULL, checkpoint INTEGER NOT NULL, id TEXT NOT NULL, "
    "batch INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT, seconds TEXT NOT NULL, figures TEXT NOT NULL, "
    "texts TEXT NOT NULL, PRIMARY KEY (position, checkpoint))",
    "CREATE TABLE general (checkpoint INTEGER NOT NULL, name TEXT NOT NULL, value REAL, "
    "PRIMARY KEY (checkpoint, name))",
    "CREATE TABLE states (name TEXT PRIMARY KEY, content BLOB NOT NULL)",
)
PIECE = 2**28
"""Bytes of one value."""
_COLUMNS = "position, checkpoint, id, batch, status, reason, seconds, figures, texts"
_ABOUT = ("configuration", "environment", "total")


class RunFile(SqliteFile):
    """The file of a run that is going on, locked until it is closed; or one that is read. Raises as `SqliteFile`."""

    def __init__(self, path: Path, *, reading: bool = False) -> None:
        super().__init__(
            path,
            kind="benchmark run",
            application=APPLICATION,
            version=VERSION,
            tables=_TABLES,
            exclusive=True,
            reading=reading,
            another="name another file" if reading else "name another file with --run",
        )

    def begin(self, configuration: Mapping[str, Any], environment: Mapping[str, Any], total: int) -> None:
        """Put down what the run is, or see that it is the one in the file.

        Raises RunError where the file is another benchmark's, naming the first difference.
        """
        given = dict(zip(_ABOUT, (configuration, environment, total), strict=True))
        kept = self._about()
        if not kept:
            rows = [(name, json.dumps(value, sort_keys=True)) for name, value in given.items()]
            with self._putting_down():
                self.sqlite.executemany("INSERT INTO about VALUES (?, ?)", rows)
            return
        self._refuse_other(kept["configuration"], configuration)
        # What an earlier version did not put down cannot be compared.
        self._refuse_other(kept["environment"], {name: environment.get(name) for name in kept["environment"]})

    def check(self, configuration: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """See what can be seen before there is a model: whether the file is of a run that has these parts.

        What only one side names is left to `begin`. Raises RunError as that does.
        """
        kept = self._about()
        for part, now in (("configuration", configuration), ("environment", environment)):
            if kept:
                self._refuse_other(*_common(kept[part], now))

    def finished(self, checkpoint: int) -> set[int]:
        """The positions that have a row at this checkpoint, done or failed."""
        with self.errors():
            query = "SELECT position FROM records WHERE checkpoint = ?"
            return {position for (position,) in self.sqlite.execute(query, (checkpoint,))}

    def forget_failed(self) -> None:
        """Take the marks of failed records away, so that the records are tried again."""
        with self._putting_down():
            self.sqlite.execute("DELETE FROM records WHERE status = 'failed'")

    def keep(self, rows: Iterable[Row], general: Mapping[int, Mapping[str, float]] | None = None) -> None:
        """Put down rows and figures of the whole model, all or none."""
        numbers = [(at, name, value) for at, figures in (general or {}).items() for name, value in figures.items()]
        with self._putting_down():
            self.sqlite.executemany(
                f"INSERT OR REPLACE INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_written, rows)
            )
            self.sqlite.executemany("INSERT OR REPLACE INTO general VALUES (?, ?, ?)", numbers)

    def has_general(self, checkpoint: int) -> bool:
        """Whether there are figures of the whole model at this checkpoint."""
        with self.errors():
            query = "SELECT 1 FROM general WHERE checkpoint = ?"
            return self.sqlite.execute(query, (checkpoint,)).fetchone() is not None

    def state(self, name: str) -> bytes | None:
        """Something kept to go on with."""
        pieces = []
        with self.errors():
            for place in count():
                query = "SELECT content FROM states WHERE name = ?"
                found = self.sqlite.execute(query, (_piece(name, place),)).fetchone()
                if found is None:
                    break
                pieces.append(found[0])
        return b"".join(pieces) if pieces else None

    def keep_states(self, contents: Mapping[str, bytes]) -> None:
        """Keep things to go on with, all or none; in pieces, because SQLite takes no value of a gigabyte."""
        with self._putting_down():
            for name, content in contents.items():
                for place, begin in enumerate(range(0, max(len(content), 1), PIECE)):
                    piece = memoryview(content)[begin : begin + PIECE]
                    self.sqlite.execute("INSERT INTO states VALUES (?, ?)", (_piece(name, place), piece))

    def read(self) -> Run:
        """The run as it is now. Raises RunError for one that was not begun."""
        kept = self._about()
        if set(_ABOUT) - set(kept):
            raise RunError(f"{self.path} holds no benchmark run yet: run the benchmark first")
        with self.errors():
            rows = [_row(found) for found in self.sqlite.execute(f"SELECT {_COLUMNS} FROM records ORDER BY 1, 2")]
            general: dict[int, dict[str, float]] = {}
            for at, name, value in self.sqlite.execute("SELECT checkpoint, name, value FROM general ORDER BY 1, 2"):
                general.setdefault(at, {})[name] = float("nan") if value is None else value
        return Run(self.path, kept["configuration"], kept["environment"], tuple(rows), general, kept["total"])

    def _refuse_other(self, kept: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        told = difference(kept, now)
        if told is not None:
            raise RunError(f"{self.path} {told}")

    @contextmanager
    def _putting_down(self) -> Iterator[None]:
        """A transaction. Raises NoRoomError, which says how to go on, where the disk is full: the file is as before."""
        try:
            with self.transaction():
                yield
        except NoRoomError as error:
            raise NoRoomError(
                f"cannot write the benchmark run {self.path}: {error.__cause__ or error}; what was finished is in it: "
                "make room, and the same command goes on from there"
            ) from error

    def _about(self) -> dict[str, Any]:
        with self.errors():
            return {name: json.loads(value) for name, value in self.sqlite.execute("SELECT name, value FROM about")}


def read_run(path: str | Path) -> Run:
    """A run from its file, which is left as it is and may lie where nothing can be written.

    Raises StorageError where there is none, InUseError where a process is writing it, RunError where it holds none.
    """
    path = Path(path)
    if not path.is_file():
        raise StorageError(f"there is no benchmark run {path}: check the path")
    try:
        with RunFile(path, reading=True) as file:
            return file.read()
    except InUseError as error:
        raise InUseError(
            f"{path} is being written by a benchmark that is going on: wait for it, or copy it with {path.name}-wal "
            "beside it, and name the copy"
        ) from error


def _piece(name: str, place: int) -> str:
    return f"{name}/{place}" if place else name


def _common(kept: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both with the names only that both have, within objects too."""
    both: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name in (name for name in now if name in kept):
        pair = (kept[name], now[name])
        within = _common(*pair) if all(isinstance(one, Mapping) for one in pair) else pair
        for side, value in zip(both, within, strict=True):
            side[name] = value
    return both


def _written(row: Row) -> Sequence[Any]:
    said = (json.dumps(finite(part), sort_keys=True) for part in (dict(row.seconds), dict(row.figures), row.texts))
    return (row.position, row.checkpoint, row.id, row.batch, row.status, row.reason, *said)


def _row(found: Sequence[Any]) -> Row:
    position, checkpoint, name, batch, status, reason, seconds, figures, texts = found
    return Row(
        position=position,
        id=name,
        checkpoint=checkpoint,
        batch=batch,
        status=status,
        figures=json.loads(figures),
        reason=reason,
        seconds=json.loads(seconds),
        texts=tuple((ask, text) for ask, text in json.loads(texts)),
    )
