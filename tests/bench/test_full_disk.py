"""A disk that fills up during a run: nothing can be marked on it, so the run stops, and goes on when there is room."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rome_engine.bench.asks import Forced
from rome_engine.bench.plan import Plan
from rome_engine.bench.run_file import RunFile, read_run
from rome_engine.bench.runner import run_benchmark
from rome_engine.bench.untouched import Untouched
from rome_engine.errors import NoRoomError
from rome_engine.sqlite import SqliteFile
from tests import tiny
from tests.bench.test_runner import arguments, data, rows
from tests.edit.examples import bit_equal, state

WANTED = Plan("r-rome", ("es@1", "nm@1"))
ASK = Forced("The Louvre is in", "Paris")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of six records: many small writes."""
    monkeypatch.setattr("rome_engine.bench.plan.GROUP", 6)


@pytest.mark.parametrize(
    ("method", "protocol", "step"),
    [("r-rome", "single", 1), ("memit", "batch", 4), ("memit-history", "sequential", 12)],
)
def test_the_run_stops_with_its_file_sound_and_goes_on(
    method: str, protocol: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file gets a few pages more each time: it is stopped at every kind of write, and ends as one never stopped."""
    model = tiny.language_model("llama")
    before = state(model)
    given = {**arguments(model, method), "untouched": tmp_path / "u"}
    wanted, some = Plan(method, ("es@1", "nm@1"), protocol, batch=24), data(60)
    whole = run_benchmark(model, wanted, some, tmp_path / "whole", **given)
    path, said, stages = tmp_path / "full", set(), set()
    opened = RunFile.__init__
    for pages in range(8, 400, step):

        def limited(self: RunFile, *of: Any, pages: int = pages, **others: Any) -> None:
            opened(self, *of, **others)
            self.sqlite.execute(f"PRAGMA max_page_count = {pages}")

        monkeypatch.setattr(RunFile, "__init__", limited)
        try:
            run = run_benchmark(model, wanted, some, path, **given)
            break
        except NoRoomError as error:
            said.add(str(error))
        monkeypatch.setattr(RunFile, "__init__", opened)
        assert bit_equal(model, before)
        with closing(sqlite3.connect(path)) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            stages.add(file.execute("SELECT count(*) FROM records").fetchone()[0])
    assert said == {
        f"cannot write the benchmark run {path}: database or disk is full; what was finished is in it: make room, and "
        "the same command goes on from there"
    }
    assert len(stages) > 1
    assert rows(run) == rows(whole)
    assert all(row.status == "done" for row in run.rows)


def test_a_full_disk_under_the_cache_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither what is kept of the untouched model nor what is read of it."""
    model = tiny.language_model("llama")
    given = arguments(model, "r-rome")
    whole = run_benchmark(model, WANTED, data(2), tmp_path / "whole", untouched=tmp_path / "u", **given)
    opened = Untouched.__init__

    def limited(self: Untouched, *of: Any, **others: Any) -> None:
        opened(self, *of, **others)
        assert self._file is not None
        self._file.sqlite.execute("INSERT INTO answers VALUES ('a', 'b', zeroblob(3900))")
        pages = self._file.sqlite.execute("PRAGMA page_count").fetchone()[0]
        self._file.sqlite.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(Untouched, "__init__", limited)
    run = run_benchmark(model, WANTED, data(2), tmp_path / "r", untouched=tmp_path / "v", **given)
    assert rows(run) == rows(whole) and "database or disk is full" in caplog.text
    monkeypatch.setattr(Untouched, "__init__", opened)

    class Full:
        in_transaction = False

        def execute(self, *_: Any) -> Any:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
            raise error

    caplog.clear()
    with Untouched(model, tmp_path / "u") as answers:
        assert answers._file is not None
        monkeypatch.setattr(answers._file, "sqlite", Full())
        monkeypatch.setattr(SqliteFile, "close", lambda _: None)
        (found,) = answers.answers([[ASK]])
    assert list(found.found) == [ASK] and "disk I/O error" in caplog.text


def test_what_is_there_can_be_read_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    given = {**arguments(model, "r-rome"), "untouched": tmp_path / "u"}
    kept = RunFile.keep

    def full(self: RunFile, *of: Any) -> None:
        kept(self, *of)
        pages = self.sqlite.execute("PRAGMA page_count").fetchone()[0]
        self.sqlite.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(RunFile, "keep", full)
    with pytest.raises(NoRoomError):
        run_benchmark(model, WANTED, data(40), tmp_path / "r", **given)
    found = read_run(tmp_path / "r")
    assert found.total == 40 and 0 < len(found.rows) < 80
