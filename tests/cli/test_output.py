"""Progress where no terminal shows a bar."""

from __future__ import annotations

import pytest

from rome_engine.cli import output


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("rome_engine.cli.output.time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_a_minute_with_the_time_left(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    with output.progress("editing and scoring") as tick:
        for done in range(100, 201):
            tick(done, 1000)
            clock[0] += 3
    found = capsys.readouterr()
    assert found.out == ""
    lines = found.err.splitlines()
    assert lines[0] == "editing and scoring: 120 of 1000, about 44 min left"
    assert len(lines) == 5 and lines[-1] == "editing and scoring: 200 of 1000, about 40 min left"


def test_short_work_says_nothing_and_many_short_phases_do(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with output.phases() as told:
        for number in range(4):
            for label in ("editing", "scoring"):
                told(f"{label} {number}", 1, 2)
                clock[0] += 10
                told(f"{label} {number}", 2, 2)
    assert capsys.readouterr().err == "scoring 2: 2 of 2\n"


def test_a_step_that_takes_longer_is_told_when_it_is_done(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with output.progress("reading") as tick:
        clock[0] += 500
        tick(1, 3)
        clock[0] += 500
        tick(2, 3)
    assert capsys.readouterr().err == "reading: 1 of 3\nreading: 2 of 3, about 8 min left\n"
