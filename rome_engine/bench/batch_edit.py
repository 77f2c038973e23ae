"""The edit of a batch of records: what fails in one of them is left out with its reason, and the others are edited."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from torch import Tensor

from rome_engine.bench.work import Numbered, Told, Work, reason
from rome_engine.edit.closed_form import ClosedForm, Targets
from rome_engine.edit.combined import combined
from rome_engine.edit.edit import Edit
from rome_engine.edit.editor import History
from rome_engine.errors import EditError
from rome_engine.facts import Fact

log = logging.getLogger(__name__)

_NONE = "no record of its batch can be edited"


@dataclass(frozen=True, eq=False)
class Made:
    """A batch's edit and its facts' keys by layer (for a history), and the seconds it took; or why there is none.

    left_out: the records, by position, that could not be edited and are not in it, and why.
    """

    edit: Edit | None
    keys: Mapping[int, Tensor]
    left_out: Mapping[int, str] = field(default_factory=dict)
    why: str = ""
    seconds: float = 0.0


def make(work: Work, records: Numbered, history: History, told: Told | None) -> Made:
    """A batch's edit on the model as it is; a batch that fails is left out, and the next ones go on without it.

    Methods that solve for their weights leave out the records that fail by themselves. One that descends on the loss of
    all facts together fails as a whole, as does a solution that cannot be found.
    """
    if not records:
        return Made(None, {}, why=_NONE)
    began = time.perf_counter()
    left_out: dict[int, str] = {}
    keys: Mapping[int, Tensor] = {}
    try:
        if not isinstance(work.editor, ClosedForm):
            edit = work.fit(_facts(records), told)
        elif work.editor.one_fact:
            edit = _one_by_one(work, records, left_out, told)
        else:
            solution = work.solve(_targets(work, records, left_out, told), history)
            edit, keys = solution.edit, solution.keys
    except Exception as error:  # of whichever kind: the other batches are worth having
        log.debug("a batch failed", exc_info=True)
        return Made(None, {}, left_out, reason(error))
    return Made(edit, keys, left_out, seconds=time.perf_counter() - began)


def _targets(work: Work, records: Numbered, left_out: dict[int, str], told: Told | None) -> Targets:
    """The values of all records, searched together; where that fails, of each record alone."""
    try:
        return work.search(_facts(records), told)
    except Exception:  # of whichever kind: the other records are worth having
        if len(records) == 1:
            raise
        log.debug("the values of a batch are searched record by record", exc_info=True)
    found: list[Targets] = []
    for done, (position, record) in enumerate(records, 1):
        try:
            found.append(work.search(record.edits))
        except Exception as error:
            left_out[position] = reason(error)
        _tell(told, "editing: record by record", done, len(records))
    if not found:
        raise EditError(_NONE)
    return Targets.joined(found)


def _one_by_one(work: Work, records: Numbered, left_out: dict[int, str], told: Told | None) -> Edit:
    """The edits of a method of one fact, each on top of those before."""
    edits: list[Edit] = []
    with ExitStack() as in_force:
        for done, (position, record) in enumerate(records, 1):
            try:
                edit = work.fit(record.edits)
                in_force.callback(edit.apply_(work.model).undo)
            except Exception as error:
                log.debug("record %s failed", record.id, exc_info=True)
                left_out[position] = reason(error)
            else:
                edits.append(edit)
            _tell(told, "editing one after another", done, len(records))
    if not edits:
        raise EditError(_NONE)
    return combined(edits)


def _facts(records: Numbered) -> Sequence[Fact]:
    return [fact for _, record in records for fact in record.edits]


def _tell(told: Told | None, label: str, done: int, of: int) -> None:
    if told is not None:
        told(label, done, of)
