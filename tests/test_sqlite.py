"""A store's file is one process's at a time, is left alone where it is not ours, and never holds half a change."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from rome_engine.errors import InUseError, NoRoomError, StorageError
from rome_engine.sqlite import SqliteFile, difference

TABLES = ("CREATE TABLE things (name TEXT PRIMARY KEY)", "CREATE TABLE others (name TEXT)")
NOBODY = 65534
_fork = multiprocessing.get_context("fork")


def opened(path: Path, **options: Any) -> SqliteFile:
    given: dict[str, Any] = {"version": 2, "exclusive": True, "another": "give --run FILE", **options}
    return SqliteFile(path, kind="store of things", application=0x54455354, tables=TABLES, **given)


def keep(file: SqliteFile, *names: str) -> None:
    with file.transaction():
        file.sqlite.executemany("INSERT INTO things VALUES (?)", [(name,) for name in names])


def names(file: SqliteFile) -> list[str]:
    with file.errors():
        return [name for (name,) in file.sqlite.execute("SELECT name FROM things ORDER BY name")]


def filled(path: Path, *content: str) -> Path:
    with opened(path) as file:
        keep(file, *content)
    return path


def listed(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def exit_code(work: Callable[..., None], *arguments: object) -> int | None:
    """Do this in a process of its own."""
    child = _fork.Process(target=work, args=arguments)
    child.start()
    child.join(60)
    return child.exitcode


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "things?#%41.sqlite"


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that other users may look into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("exclusive", [True, False])
def test_it_gives_back_what_was_kept_and_is_one_file(path: Path, exclusive: bool) -> None:
    for content in ("one", "two"):
        with opened(path, exclusive=exclusive) as file:
            keep(file, content)
    with opened(path, exclusive=exclusive) as file:
        assert names(file) == ["one", "two"]
    assert listed(path.parent) == [path.name]


# What is no such file


def foreign(path: Path) -> str:
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE things (name TEXT)")
    raw.close()
    return "is no store of things: give --run FILE"


def text(path: Path) -> str:
    path.write_text("no database, but long enough to be taken for one" * 100)
    return r"is damaged or no store of things \(file is not a database\): give --run FILE"


def older(path: Path) -> str:
    opened(path, version=1).close()
    return "was made by another version of rome-engine: give --run FILE"


@pytest.mark.parametrize("make", [foreign, text, older])
@pytest.mark.parametrize("options", [{"exclusive": True}, {"exclusive": False}, {"reading": True}], ids=str)
def test_another_file_is_refused_and_left_alone(
    path: Path, make: Callable[[Path], str], options: dict[str, bool]
) -> None:
    said = make(path)
    before = path.read_bytes()
    with pytest.raises(StorageError, match=said):
        opened(path, **options)
    assert path.read_bytes() == before and listed(path.parent) == [path.name]


def test_damage_is_told_with_its_own_remedy(path: Path) -> None:
    filled(path, *map(str, range(5000)))
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with opened(path, damaged="delete it") as file, pytest.raises(StorageError, match=r"is damaged .*: delete it"):
        names(file)
    with (
        opened(path.with_name("less")) as file,
        pytest.raises(StorageError, match=r"damaged .*\(no such table: things\)"),
    ):
        file.sqlite.execute("DROP TABLE things")
        names(file)


# Other processes


def holding(path: Path, line: Connection) -> None:
    with opened(path) as file:
        keep(file, "held")
        line.send("open")
        line.recv()


def test_a_second_process_is_refused_until_the_first_has_ended(path: Path) -> None:
    ours, theirs = _fork.Pipe()
    child = _fork.Process(target=holding, args=(path, theirs))
    child.start()
    assert ours.recv() == "open"
    before = path.read_bytes()
    for options in ({"exclusive": True}, {"exclusive": False}, {"reading": True}):
        with pytest.raises(InUseError, match=r"another process is using the store of things .*: wait for it, or give"):
            opened(path, **options)
    assert path.read_bytes() == before
    ours.send("end")
    child.join(60)
    with opened(path) as file:
        assert names(file) == ["held"]


def changing(path: Path, line: Connection) -> None:
    with opened(path, exclusive=False) as file, file.transaction():
        file.sqlite.execute("INSERT INTO things VALUES ('theirs')")
        line.send("changing")
        line.poll(0.3)


def test_a_shared_file_is_waited_for(path: Path) -> None:
    filled(path)
    ours, theirs = _fork.Pipe()
    child = _fork.Process(target=changing, args=(path, theirs))
    with opened(path, exclusive=False) as hasty, opened(path, exclusive=False, wait=30.0) as patient:
        child.start()
        assert ours.recv() == "changing"
        with pytest.raises(InUseError):
            keep(hasty, "hasty")
        keep(patient, "patient")
        assert names(hasty) == ["patient", "theirs"]
    child.join(60)


# Reading


def test_readers_change_nothing_and_do_not_stop_one_another(path: Path) -> None:
    before = filled(path, "one").read_bytes()
    with opened(path, reading=True) as first, opened(path, reading=True) as second:
        assert names(first) == names(second) == ["one"]
        with pytest.raises(InUseError):
            opened(path)
    assert path.read_bytes() == before and listed(path.parent) == [path.name]
    path.write_bytes(b"")
    with pytest.raises(StorageError, match="is no store of things, it is empty: give --run FILE"):
        opened(path, reading=True)
    assert path.read_bytes() == b"" and listed(path.parent) == [path.name]
    path.unlink()
    with pytest.raises(NoRoomError):
        opened(path, reading=True)
    assert not path.exists()


def as_nobody() -> None:
    """Become a user with no rights: root may write everywhere."""
    if os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def reading_only(path: Path) -> None:
    as_nobody()
    with opened(path, reading=True) as file:
        assert names(file) == ["one"]
    with pytest.raises(NoRoomError, match=r"cannot use the store of things .*is writable"):
        opened(path)
    with pytest.raises(NoRoomError, match=r"unable to open database file \(choose a folder that exists, is writable"):
        opened(path.with_name("new.sqlite"))


def refused_beside_a_log(path: Path) -> None:
    as_nobody()
    with pytest.raises(
        StorageError, match=r"is being written, or its writer was killed.*copy it with t\.sqlite-wal to"
    ):
        opened(path, reading=True)


def test_a_folder_that_cannot_be_written_can_be_read(shelf: Path) -> None:
    path = filled(shelf / "t.sqlite", "one")
    path.chmod(0o444)
    shelf.chmod(0o555)
    assert exit_code(reading_only, path) == 0
    assert listed(shelf) == [path.name]


def test_a_killed_writers_file_is_not_read_without_its_log(shelf: Path) -> None:
    path = shelf / "t.sqlite"
    assert exit_code(killed, path) == -signal.SIGKILL
    shelf.chmod(0o555)
    assert exit_code(refused_beside_a_log, path) == 0


# Changes


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_change_that_fails_is_none(path: Path, error: type[BaseException]) -> None:
    filled(path, "one")
    with opened(path) as file:
        with pytest.raises(error), file.transaction():
            file.sqlite.execute("INSERT INTO things VALUES ('two')")
            raise error
        with pytest.raises(sqlite3.IntegrityError):  # a mistake of the caller's stays what it is
            keep(file, "two", "one")
        assert names(file) == ["one"]
        keep(file, "three")
    with opened(path) as file:
        assert names(file) == ["one", "three"]


def killed(path: Path) -> None:
    with opened(path) as file:
        keep(file, "one")
        keep(file, "two")
        file.sqlite.execute("PRAGMA cache_size = 1")  # the change goes to the disk before it is whole
        with file.transaction():
            file.sqlite.executemany("INSERT INTO others VALUES (?)", [(str(number) * 99,) for number in range(2000)])
            file.sqlite.execute("DELETE FROM things")
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_killed_in_a_change_leaves_what_was_finished(path: Path) -> None:
    assert exit_code(killed, path) == -signal.SIGKILL
    assert path.with_name(f"{path.name}-wal").stat().st_size > 200_000
    with opened(path) as file:
        assert names(file) == ["one", "two"]
        assert file.sqlite.execute("SELECT COUNT(*) FROM others").fetchone() == (0,)
    assert listed(path.parent) == [path.name]


def on_a_full_disk(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    with opened(path) as file:
        keep(file, "one")
        with pytest.raises(NoRoomError, match=r"cannot use the store of things .*has room\)"):
            keep(file, *(str(number) * 99 for number in range(1000)))
        assert names(file) == ["one"]


def test_a_full_disk_is_told_and_leaves_what_was_finished(path: Path) -> None:
    assert exit_code(on_a_full_disk, path) == 0
    with opened(path) as file:
        assert names(file) == ["one"]


def no_room_at_all(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with pytest.raises(NoRoomError, match="has room"):
        opened(path)


def test_a_file_that_could_not_be_made_can_be_made_later(path: Path) -> None:
    assert exit_code(no_room_at_all, path) == 0
    assert filled(path, "one").exists()


# Runs that are not the same


def test_the_first_difference_is_told_by_its_name() -> None:
    kept = {"seed": 1, "data": {"name": "a", "sha256": "f" * 64}, "kinds": ["mlp"], "threads": 2}
    assert difference(kept, {**kept, "kinds": ("mlp",)}) is None
    remedy = ": run with the same, or name another file with --run"
    assert difference(kept, {**kept, "seed": 2}) == f"was made with seed 1, and now it is 2{remedy}"
    assert difference(kept, {**kept, "more": True}) == f"was made with more unset, and now it is true{remedy}"
    assert difference(kept, {**kept, "seed": None}) == f"was made with seed 1, and now it is unset{remedy}"
    other = {**kept, "data": {"name": "a", "sha256": "0" * 64}}
    assert difference(kept, other) == f"was made with data.sha256 {'f' * 12}…, and now it is {'0' * 12}…{remedy}"
    assert "threads 2, and now it is 1: run with OMP_NUM_THREADS=2, or" in str(difference(kept, {**kept, "threads": 1}))
