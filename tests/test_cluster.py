"""Workers of a Ray cluster: all results once, whoever dies; errors as if the work were done here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from rome_engine import cluster
from rome_engine.cluster import Cluster, Pool
from rome_engine.errors import ClusterError, TargetError
from tests.ray_cluster import CLUSTER, die_once, running


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with running(tmp_path_factory.mktemp("cache")):
        yield


def making(work: Callable[[int], tuple[int, int]], folder: Path) -> Callable[[int], tuple[int, int]]:
    """Leaves a file for each time that it is called."""
    (folder / f"{os.getpid()}-{time.time_ns()}").touch()
    return work


def squared(number: int) -> tuple[int, int]:
    time.sleep(0.05 if number else 1.0)
    return number * number, os.getpid()


def dying(folder: Path, number: int) -> tuple[int, int]:
    """Of the first who is given 3, and of the first who is given 4."""
    if number in (3, 4):
        die_once(folder / str(number))
    return squared(number)


def deadly(number: int) -> tuple[int, int]:
    if number == 3:
        os._exit(1)
    return squared(number)


def deadly_of(numbers: tuple[int, ...]) -> list[int]:
    return [deadly(number)[0] for number in numbers]


def refusing(number: int) -> tuple[int, int]:
    if number == 3:
        raise TargetError(f"there is no {number}")
    return squared(number)


def unmade() -> Callable[[int], int]:
    raise TargetError("no worker can be made")


@pytest.mark.usefixtures("two_workers")
def test_each_piece_once_on_workers_made_once(tmp_path: Path) -> None:
    with Pool(CLUSTER, partial(making, squared, tmp_path)) as pool:
        results = [*pool.map(range(9)), *pool.map([9])]
        assert list(pool.map([])) == list(pool.in_order([])) == []
        taken: list[int] = []
        ordered = pool.in_order(taken.append(number) or number for number in range(12))
        assert next(ordered)[0] == 0 and len(taken) <= 2 * cluster.AHEAD + 1  # the first is slow, and the others wait
        assert [square for square, _ in ordered] == [number**2 for number in range(1, 12)]
    assert sorted(square for square, _ in results) == [number**2 for number in range(10)]
    processes = {process for _, process in results}
    assert len(processes) == 2 and os.getpid() not in processes
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.usefixtures("two_workers")
def test_killed_workers_pieces_are_done_by_others(tmp_path: Path) -> None:
    made, flags = tmp_path / "made", tmp_path / "flags"
    made.mkdir()
    flags.mkdir()
    with Pool(CLUSTER, partial(making, partial(dying, flags), made)) as pool:
        results = sorted(square for square, _ in pool.map(range(8)))
    assert results == [number**2 for number in range(8)]
    assert {flag.name for flag in flags.iterdir()} == {"3", "4"} and len(list(made.iterdir())) > 2


@pytest.mark.usefixtures("two_workers")
def test_a_piece_that_workers_die_of_is_tried_in_parts(tmp_path: Path) -> None:
    def lost(piece: tuple[int, ...], why: str) -> tuple[list[tuple[int, ...]], list[int]]:
        assert why
        return ([(one,) for one in piece], []) if len(piece) > 1 else ([], [-one for one in piece])

    with Pool[tuple[int, ...], list[int]](CLUSTER, partial(making, deadly_of, tmp_path)) as pool:
        found = sorted(one for some in pool.map([(1, 2), (3, 4), (5,)], lost) for one in some)
    assert found == [-3, 1, 4, 16, 25]


@pytest.mark.usefixtures("two_workers")
def test_errors_are_raised_here(tmp_path: Path) -> None:
    with Pool(CLUSTER, partial(making, refusing, tmp_path)) as pool:
        with pytest.raises(TargetError, match=r"^there is no 3$"):
            list(pool.map(range(5)))
        assert [square for square, _ in pool.map([2])] == [4]
    with Pool(CLUSTER, unmade) as broken, pytest.raises(TargetError, match="no worker can be made"):
        list(broken.map([1]))
    with (
        Pool(CLUSTER, partial(making, deadly, tmp_path)) as pool,
        pytest.raises(ClusterError, match="3 workers died of one piece"),
    ):
        list(pool.map(range(5)))


@pytest.mark.usefixtures("two_workers")
def test_a_cluster_without_room_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    with (
        Pool(CLUSTER, partial(making, squared, tmp_path), gpus=64) as pool,
        pytest.raises(ClusterError, match="1 CPUs and 64 GPUs"),
    ):
        list(pool.map(range(2)))


@pytest.mark.usefixtures("two_workers")
def test_an_interruption_ends_the_workers_and_leaves_a_cluster_that_was_there(tmp_path: Path) -> None:
    import ray

    with pytest.raises(KeyboardInterrupt), Pool(CLUSTER, partial(making, squared, tmp_path)) as pool:
        for _, process in pool.map(range(100)):  # noqa: B007 (it is looked for below)
            raise KeyboardInterrupt
    assert ray.is_initialized()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{process}").exists()


def test_ray_that_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"^Ray is not installed: pip install 'rome-engine\[ray\]'$"):
        Pool(CLUSTER, partial(making, squared, Path()))


def test_no_workers_are_no_cluster() -> None:
    with pytest.raises(ClusterError, match="at least one worker, not 0"):
        Cluster(0)
