"""Work spread over the processes of a Ray cluster: pieces go out, and results come back when they are there."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

import torch

from rome_engine.errors import ClusterError

Piece = TypeVar("Piece")
Result = TypeVar("Result")

DEATHS = 3
"""Workers that one piece may cost, and workers that may die one after another before they have begun."""

AHEAD = 2
"""Pieces, for each worker, that are out or whose results wait in memory, at most, where results are wanted in order."""

PATIENCE = 300.0
"""Seconds in which the first worker must be there."""


@dataclass(frozen=True)
class Cluster:
    """Where work is spread: over so many worker processes of the cluster at an address.

    address: "auto" or "ray://HOST:PORT" is a cluster that is there, and stays; None starts one on this machine, which
    is shut down afterwards. Where this process is connected to a cluster already, that one is used, and stays.
    Raises ClusterError for less than one worker.
    """

    workers: int
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ClusterError(f"work is spread over at least one worker, not {self.workers}")


class Pool(Generic[Piece, Result]):
    """Workers of a cluster, which are made here and end with this context manager, however it is left.

    make: picklable; called once in each worker that is given a piece, it gives what turns a piece into its result: a
    model is loaded there. gpus: of each worker. Each has as many threads of PyTorch as this process: with another
    number sums are rounded otherwise, and the results would not be those of this process.
    Raises ClusterError where Ray is not installed, or the cluster cannot be used.
    """

    def __init__(self, cluster: Cluster, make: Callable[[], Callable[[Piece], Result]], gpus: int = 0) -> None:
        self._cluster, self._make, self._gpus = cluster, make, gpus
        self._threads = torch.get_num_threads()
        self._ray = _ray()
        self._started_here = False
        self._starting: dict[Any, Any] = {}
        self._free: list[Any] = []
        self._alive: list[Any] = []
        self._deaths = 0

    def __enter__(self) -> Pool[Piece, Result]:
        try:
            if not self._ray.is_initialized():
                self._connect()
            self._made = self._ray.put(self._make)
            for _ in range(self._cluster.workers):
                self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def map(
        self, pieces: Iterable[Piece], lost: Callable[[Piece, str], tuple[Sequence[Piece], Result]] | None = None
    ) -> Generator[Result, None, None]:
        """Each piece's result when it is there; a worker has one piece at a time, and the next one when it is done.

        A piece whose worker dies goes to another one, and a new worker is started in the place of the dead one. An
        error that the work raises is raised here. lost: of a piece that took DEATHS workers with it, and why, makes the
        pieces to be tried in its place, each of them once, and a result.
        Raises ClusterError for such a piece without `lost`, and where no worker can be started.
        """
        with closing(self._done(pieces, lambda _number: True, lost)) as done:
            for _, result in done:
                yield result

    def in_order(self, pieces: Iterable[Piece]) -> Generator[Result, None, None]:
        """As `map`, in the pieces' order; workers wait where results that cannot be given yet would pile up (AHEAD)."""
        given, waiting = 0, dict[int, Result]()
        with closing(self._done(pieces, lambda number: number < given + AHEAD * self._cluster.workers)) as done:
            for number, result in done:
                waiting[number] = result
                while given in waiting:
                    given += 1
                    yield waiting.pop(given - 1)

    def _done(
        self,
        pieces: Iterable[Piece],
        may_begin: Callable[[int], bool],
        lost: Callable[[Piece, str], tuple[Sequence[Piece], Result]] | None = None,
    ) -> Generator[tuple[int, Result], None, None]:
        """The number and the result of each piece when it is there; may_begin: whether that number's turn has come."""
        waiting: Iterator[tuple[int, Piece, int]] = ((number, piece, 0) for number, piece in enumerate(pieces))
        following = next(waiting, None)
        out: dict[Any, tuple[Any, int, Piece, int]] = {}
        try:
            while out or following is not None:
                while self._free and following is not None and may_begin(following[0]):
                    worker = self._free.pop()
                    out[worker.work.remote(following[1])] = (worker, *following)
                    following = next(waiting, None)
                ready = self._wait(out)
                if ready in self._starting:
                    self._begin(ready)
                    continue
                worker, number, piece, deaths = out.pop(ready)
                try:
                    result = self._result(ready)
                except _Died as death:
                    self._replace(worker)
                    again = [(number, piece, deaths + 1)]
                    if deaths + 1 == DEATHS:
                        if lost is None:
                            raise ClusterError(f"{DEATHS} workers died of one piece of the work: {death}") from death
                        parts, result = lost(piece, str(death))
                        again = [(number, part, deaths) for part in parts]
                        yield number, result
                    waiting = chain(again, waiting if following is None else chain([following], waiting))
                    following = next(waiting, None)
                    continue
                except BaseException:
                    self._free.append(worker)
                    raise
                self._free.append(worker)
                yield number, result
        finally:
            self._free += [worker for worker, *_ in out.values()]  # they take the next piece when they are done

    # Workers

    def _start(self) -> None:
        """Ask for a worker; it is given nothing before it is there, because the cluster may have no room for it."""
        options = {"num_cpus": self._threads, "num_gpus": self._gpus, "max_restarts": 0}
        worker = self._ray.remote(_Worker).options(**options).remote(self._made, self._threads)
        self._alive.append(worker)
        self._starting[worker.there.remote()] = worker

    def _begin(self, ready: Any) -> None:
        """Take in a worker that is there, or start another one in the place of one that died on its way."""
        worker = self._starting.pop(ready)
        try:
            self._result(ready)
        except _Died as death:
            self._replace(worker)
            self._deaths += 1
            if self._deaths == DEATHS:
                raise ClusterError(f"{DEATHS} workers died while they were started: {death}") from death
        else:
            self._deaths = 0
            self._free.append(worker)

    def _replace(self, worker: Any) -> None:
        self._alive.remove(worker)
        self._ray.kill(worker)  # it may live on where only the network failed
        self._start()

    def _wait(self, out: Iterable[Any]) -> Any:
        """What is ready first of the results that are out and the workers that are on their way."""
        busy = list(out)
        ready, _ = self._ray.wait([*busy, *self._starting], num_returns=1, timeout=None if busy else PATIENCE)
        if not ready:
            wanted = f"{self._threads} CPUs" + (f" and {self._gpus} GPUs" if self._gpus else "")
            raise ClusterError(
                f"no worker could be started in {PATIENCE:.0f} seconds: the cluster must have {wanted} free for each "
                "(OMP_NUM_THREADS sets the CPUs)"
            )
        return ready[0]

    def _result(self, ready: Any) -> Any:
        """What a worker gave. Raises its error, or _Died."""
        try:
            return self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            raise _Died(_reason(error)) from error

    # The cluster

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._cluster.address is None:
            workers = self._cluster.workers
            options |= {"num_cpus": workers * self._threads, "include_dashboard": False}
        else:
            options |= {"address": self._cluster.address}
        try:
            self._ray.init(**options)
        except Exception as error:  # Ray's ways to say so are many
            where = self._cluster.address or "on this machine"
            raise ClusterError(f"cannot use a Ray cluster {where}: {_reason(error)}") from error
        self._started_here = True

    def _end(self) -> None:
        """End the workers; the connection too, and with it a cluster, if they were begun here."""
        if self._ray.is_initialized():
            for worker in self._alive:
                self._ray.kill(worker)
        self._alive, self._free, self._starting = [], [], {}
        if self._started_here:
            self._ray.shutdown()
            self._started_here = False


class _Died(Exception):
    """A worker is no more, or what it gave is lost."""


class _Worker:
    """What runs in a worker's process."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], threads: int) -> None:
        self._make, self._threads = make, threads
        self._work: Callable[[Any], Any] | None = None

    def there(self) -> None:
        """Nothing; it can be done as soon as the worker is there."""

    def work(self, piece: Any) -> Any:
        """A piece's result. What works is made with the first one, so that its errors are errors of the work."""
        if self._work is None:
            torch.set_num_threads(self._threads)
            self._work = self._make()
        return self._work(piece)


def check_installed() -> None:
    """Say before any work that Ray is missing. Raises ClusterError."""
    _ray()


def _ray() -> Any:
    """Ray, which is optional and takes a second to import. Raises ClusterError."""
    try:
        import ray
    except ImportError as error:
        raise ClusterError("Ray is not installed: pip install 'rome-engine[ray]'") from error
    return ray


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    return said[:300] or type(error).__name__
