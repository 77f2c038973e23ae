"""One piece of a benchmark: some records edited and scored on one copy of the model, as rows."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from rome_engine.bench.answering import MEMORY, answer
from rome_engine.bench.asks import Answers, Ask, Generated
from rome_engine.bench.metrics import Metric
from rome_engine.bench.record import Record
from rome_engine.bench.run import BEFORE, Row
from rome_engine.bench.untouched import Untouched
from rome_engine.edit.closed_form import ClosedForm, Solution, Targets
from rome_engine.edit.combined import combined
from rome_engine.edit.context import Contexts
from rome_engine.edit.edit import Edit
from rome_engine.edit.editor import Editor, History
from rome_engine.edit.per_row import per_row
from rome_engine.edit.trained import Trained
from rome_engine.edit.value import Progress
from rome_engine.edit.values import Store
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment

Numbered = Sequence[tuple[int, Record]]
"""Records with their positions in the order of editing."""

Told = Callable[[str, int, int], None]
"""Told what goes on, and how far it is: phase, done, of all."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Work:
    """What all pieces of a run have in common. contexts: sampled from the untouched model; None for methods without.

    store: where values that were searched before are looked for, see `edit.values`; None nowhere.
    """

    model: LanguageModel
    editor: Editor
    moments: Mapping[int, SecondMoment]
    config: Any
    metrics: Sequence[Metric]
    contexts: Contexts | None
    untouched: Untouched
    memory: int = MEMORY
    store: Store = "cache"

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        editor: Editor,
        moments: Mapping[int, SecondMoment],
        config: Any,
        metrics: Sequence[Metric],
        untouched: Untouched,
        memory: int = MEMORY,
        store: Store = "cache",
    ) -> Work:
        """The work of a method on the untouched model."""
        contexts = editor.contexts(model, config) if isinstance(editor, ClosedForm) else None
        return cls(model, editor, moments, config, metrics, contexts, untouched, memory, store)

    # Rows

    def before(self, records: Numbered) -> list[Row]:
        """The records' figures on the untouched model, which the model must be; one that fails is marked so."""

        def rows(some: Numbered) -> list[Row]:
            answers = self.untouched.answers([self._asks(record) for _, record in some])
            return self._rows(some, BEFORE, answers, answers, {})

        return self._each_if_need_be(records, BEFORE, rows)

    def single(self, records: Numbered) -> list[Row]:
        """The records' figures, each with its own edit of the untouched model; one that fails is marked so.

        All are edited and scored together, as paths beside the weights of one model: see `edit.per_row`.
        """

        def rows(some: Numbered) -> list[Row]:
            asks = [self._asks(record) for _, record in some]
            before = self.untouched.answers(asks)
            began = time.perf_counter()
            edits = self.edits([record for _, record in some])
            edited = time.perf_counter()
            with per_row(self.model, edits) as paths:
                after = answer(self.model, asks, chosen=paths.choose, memory=self.memory)
            seconds = {"edit": edited - began, "score": time.perf_counter() - edited}
            return self._rows(some, 0, after, before, seconds)

        return self._each_if_need_be(records, 0, rows)

    def edited(self, records: Numbered, checkpoint: int) -> list[Row]:
        """The records' figures on the model as it is now, edited in whatever way."""

        def rows(some: Numbered) -> list[Row]:
            asks = [self._asks(record) for _, record in some]
            began = time.perf_counter()
            after = answer(self.model, asks, memory=self.memory)
            seconds = {"score": time.perf_counter() - began}
            return self._rows(some, checkpoint, after, self.untouched.known(asks), seconds)

        return self._each_if_need_be(records, checkpoint, rows)

    # Edits

    def edits(self, records: Sequence[Record]) -> list[Edit]:
        """Each record's edit of the untouched model. A method of one fact makes a record's edits one after another."""
        if isinstance(self.editor, ClosedForm) and all(len(record.edits) == 1 for record in records):
            facts = [record.edits[0] for record in records]
            given: dict[str, Any] = {"contexts": self.contexts, "store": self.store, "memory": self.memory}
            return self.editor.fit_each(self.model, facts, self.moments, self.config, **given)
        return [self.fit(record.edits) for record in records]

    def fit(self, facts: Sequence[Fact], told: Told | None = None) -> Edit:
        """The edit of some facts on the model as it is; those of a method of one fact one after another."""
        if isinstance(self.editor, Trained):
            return self.editor.fit_whatever(self.model, facts, self.config, _steps(told))
        if not isinstance(self.editor, ClosedForm):
            return self.editor.fit(self.model, facts, self.moments, self.config, _steps(told))
        if self.editor.one_fact and len(facts) > 1:
            return self._one_by_one(facts)
        return self.solve(self.search(facts, told)).edit

    def search(self, facts: Sequence[Fact], told: Told | None = None) -> Targets:
        """The values of facts on the model as it is, for a method that solves for its weights."""
        assert isinstance(self.editor, ClosedForm)
        given: dict[str, Any] = {"contexts": self.contexts, "store": self.store, "memory": self.memory}
        return self.editor.search(self.model, facts, self.config, _steps(told), new_only=False, **given)

    def solve(self, targets: Targets, history: History | None = None) -> Solution:
        """The edit that brings these values about on the model as it is."""
        assert isinstance(self.editor, ClosedForm)
        return self.editor.solve(self.model, targets, self.moments, self.config, history=history or None)

    def _one_by_one(self, facts: Sequence[Fact]) -> Edit:
        edits: list[Edit] = []
        with ExitStack() as in_force:
            for fact in facts:
                edits.append(self.fit([fact]))
                in_force.callback(edits[-1].apply_(self.model).undo)
        return combined(edits)

    # Parts

    def _asks(self, record: Record) -> list[Ask]:
        return [ask for metric in self.metrics for ask in metric.asks(record)]

    def _rows(
        self,
        records: Numbered,
        checkpoint: int,
        after: Sequence[Answers],
        before: Sequence[Answers],
        seconds: Mapping[str, float],
    ) -> list[Row]:
        share = {phase: spent / len(records) for phase, spent in seconds.items()}
        return [
            self._row(position, record, checkpoint, one, other, share)
            for (position, record), one, other in zip(records, after, before, strict=True)
        ]

    def _row(
        self,
        position: int,
        record: Record,
        checkpoint: int,
        after: Answers,
        before: Answers,
        seconds: Mapping[str, float],
    ) -> Row:
        for answers, where in ((before, " on the untouched model"), (after, "")):
            if odd := answers.odd():  # a metric would take it for an answer that is merely wrong
                return failed(position, record, checkpoint, f"not finite{where}: {', '.join(odd)}")
        figures = {}
        for metric in self.metrics:
            value = metric.value(record, after, before)
            if value is not None:
                figures[metric.name] = float(value)
        odd = [name for name, value in figures.items() if not math.isfinite(value)]
        if odd:
            return failed(position, record, checkpoint, f"not finite: {', '.join(odd)}")
        texts = tuple((ask.text, one.text) for ask, one in _generated(after))
        return Row(position, record.id, checkpoint, 0, "done", figures, None, seconds, texts)

    def _each_if_need_be(self, records: Numbered, checkpoint: int, rows: Callable[[Numbered], list[Row]]) -> list[Row]:
        """The rows of all records together; where that fails, of each alone, so that only what fails is marked so."""
        if not records:
            return []
        try:
            return rows(records)
        except Exception as error:  # of whichever kind: the other records are worth having
            if len(records) == 1:
                position, record = records[0]
                log.debug("record %s failed", record.id, exc_info=True)
                return [failed(position, record, checkpoint, reason(error))]
        return [row for one in records for row in self._each_if_need_be([one], checkpoint, rows)]


def _steps(told: Told | None) -> Progress | None:
    return None if told is None else lambda step, steps, _loss: told("editing: steps of a batch", step, steps)


def reason(error: Exception) -> str:
    """An error in one line."""
    said = " ".join(str(error).split())
    return said if isinstance(error, EditError) else f"{type(error).__name__}: {said}" if said else type(error).__name__


def failed(position: int, record: Record, checkpoint: int, why: str) -> Row:
    """The row of a record that could not be edited or scored."""
    return Row(position, record.id, checkpoint, 0, "failed", reason=why)


def _generated(answers: Answers) -> Iterable[tuple[Generated, Any]]:
    return ((ask, one) for ask, one in answers.found.items() if isinstance(ask, Generated))
