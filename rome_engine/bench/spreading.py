"""Records that are edited alone, edited and scored by the workers of a Ray cluster; the driver alone writes the run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rome_engine.bench.answering import MEMORY, answer
from rome_engine.bench.asks import Answer, Answers, Ask, NextAnswer
from rome_engine.bench.metrics import Metric, named
from rome_engine.bench.nll import Progress
from rome_engine.bench.plan import Plan, Protocol
from rome_engine.bench.run import Row
from rome_engine.bench.runner import Spread
from rome_engine.bench.untouched import Untouched
from rome_engine.bench.work import Numbered, Work, failed
from rome_engine.cluster import Cluster, Pool
from rome_engine.edit.context import Contexts
from rome_engine.edit.methods import editor
from rome_engine.errors import BenchError
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replica import Replica
from rome_engine.stats import SecondMoment

log = logging.getLogger(__name__)

Known = Mapping[Ask, Answer | Tensor]
"""What the untouched model answered; of a next token the hidden state alone, because its reader is a whole model."""


@dataclass(frozen=True)
class _Asks:
    """What the untouched model is to be asked."""

    asks: tuple[Ask, ...]


Sent = tuple[Numbered, Known] | _Asks
"""What goes to a worker: asks; or records, with what the untouched model answered to all they ask."""

Got = list[Row] | Known
"""What comes back of it."""


def check_protocol(protocol: Protocol) -> None:
    """Raises BenchError for one whose edits lie on top of each other: they are not spread."""
    if protocol != "single":
        raise BenchError(
            f"the protocol {protocol} cannot be spread over workers, because its edits are in force together: leave "
            "workers out, or choose the protocol single"
        )


@contextmanager
def spreader(
    cluster: Cluster,
    replica: Replica,
    model: LanguageModel,
    plan: Plan,
    *,
    moments: Mapping[int, SecondMoment],
    config: Any,
    memory: int = MEMORY,
    untouched: Path | None = None,
) -> Iterator[Spread]:
    """Workers for the `spread` of `run_benchmark`, whose arguments the others are; the model is untouched.

    Contexts are made here, answers of the untouched model by the workers and kept here; both are sent, so that rows are
    those of a run without workers.
    Raises BenchError for a protocol whose edits lie on top of each other, ClusterError as `Pool` does.
    """
    check_protocol(plan.protocol)
    metrics = named(plan.metrics)
    with Untouched(model, untouched, memory) as answers:
        contexts = Work.of(model, editor(plan.method), moments, config, metrics, answers, memory).contexts
        make = _Making(replica, plan.method, dict(moments), config, plan.metrics, contexts, memory)
        with Pool[Sent, Any](cluster, make, replica.gpus) as pool:
            yield _Spread(pool, answers, metrics)


@dataclass(frozen=True, eq=False)
class _Spread:
    """The `Spread` of a pool of workers."""

    pool: Pool[Sent, Any]
    answers: Untouched
    metrics: Sequence[Metric]

    def ask(self, pieces: Iterable[Numbered]) -> Iterator[None]:
        """See `Spread.ask`. Each piece asks what those before it did not, as without workers; some ask nothing."""
        if not self.answers.keeps:
            return  # they would be lost
        for found in self.pool.map(self._asks(pieces), _lost):
            self.answers.take(found)
            yield

    def __call__(self, pieces: Iterable[Numbered]) -> Iterator[list[Row]]:
        """See `Spread`."""
        return self.pool.map(((piece, _known(self.answers, self.metrics, piece)) for piece in pieces), _lost)

    def _asks(self, pieces: Iterable[Numbered]) -> Iterator[_Asks]:
        sent: set[Ask] = set()
        for piece in pieces:
            asked = [ask for _, record in piece for metric in self.metrics for ask in metric.asks(record)]
            new = [ask for ask in self.answers.missing(asked) if ask not in sent]
            sent.update(new)
            if new:
                yield _Asks(tuple(new))


def _lost(sent: Sent, why: str) -> tuple[list[Sent], Got]:
    """Records that worker after worker died of are tried one by one, and the one that still kills its worker failed.

    What workers die of being asked is asked here.
    """
    if isinstance(sent, _Asks):
        return [], {}
    records, known = sent
    if len(records) > 1:
        return [([one], known) for one in records], []
    return [], [failed(at, record, 0, f"its worker died of it: {why}") for at, record in records]


def _known(answers: Untouched, metrics: Sequence[Metric], records: Numbered) -> Known:
    """The answers to all that these records ask; where something cannot be asked, to what the other records ask."""
    try:
        found = answers.answers([[ask for metric in metrics for ask in metric.asks(record)] for _, record in records])
    except Exception:  # of whichever kind: the worker meets it again, and marks the record
        alone = [_known(answers, metrics, [one]) for one in records] if len(records) > 1 else []
        return {ask: one for some in alone for ask, one in some.items()}
    return {ask: one for some in found for ask, one in _light(some).items()}


def _light(answers: Answers) -> Known:
    """The answers without the models that some of them read."""
    return {ask: one.hidden if isinstance(one, NextAnswer) else one for ask, one in answers.found.items()}


@dataclass(frozen=True, eq=False)
class _Making:
    """All that a worker is made of."""

    replica: Replica
    method: str
    moments: Mapping[int, SecondMoment]
    config: Any
    metrics: tuple[str, ...]
    contexts: Contexts | None
    memory: int

    def __call__(self) -> _Working:
        model = self.replica()
        answers = _Received(model, self.memory)
        metrics = named(self.metrics)
        method = editor(self.method)
        work = Work(model, method, self.moments, self.config, metrics, self.contexts, answers, self.memory)
        return _Working(work, answers)


@dataclass(frozen=True, eq=False)
class _Working:
    """What a worker does with a piece."""

    work: Work
    answers: _Received

    def __call__(self, sent: Sent) -> Got:
        if isinstance(sent, _Asks):
            return self._asked(sent.asks)
        records, self.answers.received = sent
        return self.work.single(records)

    def _asked(self, asks: Sequence[Ask]) -> Known:
        try:
            (found,) = answer(self.work.model, [asks], memory=self.work.memory)
        except Exception:  # of whichever kind: the driver meets it again, and marks the record
            log.debug("something could not be asked", exc_info=True)
            return {}
        return _light(found)


class _Received(Untouched):
    """Answers of the untouched model that came with the records; what is not among them is asked, and not kept."""

    def __init__(self, model: LanguageModel, memory: int) -> None:
        self._model, self._memory = model, memory
        self.received: Known = {}

    def answers(self, asked: Sequence[Iterable[Ask]], progress: Progress | None = None) -> list[Answers]:
        """As `Untouched.answers`."""
        asks = [tuple(dict.fromkeys(some)) for some in asked]
        if any(ask not in self.received for some in asks for ask in some):
            return answer(self._model, asks, memory=self._memory, progress=progress)
        return [Answers({ask: self._whole(self.received[ask]) for ask in some}) for some in asks]

    def _whole(self, one: Answer | Tensor) -> Answer:
        return NextAnswer(one, self._model) if isinstance(one, Tensor) else one
