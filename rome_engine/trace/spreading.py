"""Facts traced by the workers of a Ray cluster; the driver asks which are known, and alone writes the run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial

from rome_engine.cluster import Cluster, Pool
from rome_engine.model.replica import Replica
from rome_engine.trace.known import AnswerTokens
from rome_engine.trace.over_facts import Numbered, Spread, Traced, trace_fact
from rome_engine.trace.settings import Settings
from rome_engine.trace.tracer import Tracer


def spreader(cluster: Cluster, replica: Replica) -> Spread:
    """The `spread` of `trace_facts`: workers that are there while facts are traced.

    What it gives raises ClusterError as `Pool` does, and TraceError as `Tracer` does.
    """
    return partial(_spread, cluster, replica)


def _spread(
    cluster: Cluster, replica: Replica, settings: Settings, answer_tokens: AnswerTokens, facts: Iterable[Numbered]
) -> Generator[Traced, None, None]:
    make = _Making(replica, settings, answer_tokens)
    with Pool[Numbered, Traced](cluster, make, replica.gpus) as pool:
        yield from pool.map(facts)


@dataclass(frozen=True)
class _Making:
    """All that a worker is made of."""

    replica: Replica
    settings: Settings
    answer_tokens: AnswerTokens

    def __call__(self) -> Callable[[Numbered], Traced]:
        return partial(trace_fact, Tracer(self.replica(), self.settings), self.answer_tokens)
