"""Edits on top of each other: batch after batch stays in force, and after each the records so far are scored."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import safetensors.torch
from torch import Tensor

from rome_engine.bench.effects import unaskable
from rome_engine.bench.plan import Plan, grouped
from rome_engine.bench.run import BEFORE, Row
from rome_engine.bench.run_file import RunFile
from rome_engine.bench.work import Numbered, Told, Work, failed, reason
from rome_engine.edit.closed_form import extended
from rome_engine.edit.edit import Edit

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Made:
    """A batch's edit and its facts' keys by layer (for a history), and the seconds it took; or why there is none."""

    edit: Edit | None
    keys: Mapping[int, Tensor]
    why: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Kept:
    """What the run's file has, and where rows go. batch_of: the batch of each position."""

    file: RunFile
    batch_of: Mapping[int, int]

    def finished(self, checkpoint: int) -> set[int]:
        """The positions that have their row."""
        return self.file.finished(checkpoint)

    def rows(self, rows: Iterable[Row]) -> None:
        """Put down rows."""
        placed = [replace(row, batch=self.batch_of[row.position]) for row in rows]
        if placed:
            self.file.keep(placed)

    def general(self, checkpoint: int, measure: Callable[[], Mapping[str, float]]) -> None:
        """Put down figures of the whole model, measured now where they are not there yet."""
        if not self.file.has_general(checkpoint):
            self.file.keep([], {checkpoint: measure()})

    def batch(self, number: int) -> Made | None:
        """What an earlier sitting made of a batch."""
        why = self.file.state(f"{number} failed")
        if why is not None:
            return Made(None, {}, why.decode())
        edit, keys, seconds = (self.file.state(f"{number} {what}") for what in ("edit", "keys", "seconds"))
        if edit is None or keys is None or seconds is None:
            return None
        found = {int(at): of for at, of in safetensors.torch.load(keys).items()}
        return Made(Edit.from_bytes(edit, f"the edit of batch {number}"), found, seconds=float(seconds))

    def keep_batch(self, number: int, made: Made) -> None:
        """Put it down, where it is not there yet."""
        if self.batch(number) is not None:
            return
        if made.edit is None:
            self.file.keep_states({f"{number} failed": made.why.encode()})
            return
        content = safetensors.torch.save({str(at): of.contiguous() for at, of in made.keys.items()})
        states = {"edit": made.edit.to_bytes(), "keys": content, "seconds": repr(made.seconds).encode()}
        self.file.keep_states({f"{number} {what}": content for what, content in states.items()})


def run(
    work: Work,
    records: Numbered,
    plan: Plan,
    kept: Kept,
    general: Callable[[Any], Mapping[str, float]] | None,
    told: Told | None,
) -> None:
    """All batches; those that an earlier sitting made are put in force again, bit for bit.

    The untouched model is asked everything first: what is compared with it must not come from an edited one.
    """
    for group in grouped(records):
        rows = work.before(group)
        _keep_missing(rows, BEFORE, kept)
        _tell(told, "asking the untouched model", group[-1][0] + 1, len(records))
    why_not = _unaskable(work, records)
    keeps_history = getattr(work.editor, "keeps_history", False)
    history: dict[int, Any] = {}
    batches = plan.batches([record for _, record in records])
    with ExitStack() as in_force:
        for number, batch in enumerate(batches):
            made = kept.batch(number) or _made(work, [records[at] for at in batch if at not in why_not], history, told)
            kept.keep_batch(number, made)
            if made.edit is None:
                why_not |= {at: made.why for at in batch if at not in why_not}
            else:
                in_force.callback(made.edit.apply_(work.model).undo)
                history = extended(history, made.keys) if keeps_history else {}
            label = f"scoring batch {number + 1} of {len(batches)}"
            scored = plan.scored(batches, number)
            spent = {at: made.seconds / len(batch) for at in batch if at not in why_not}
            _score(work, records[scored.start : scored.stop], why_not, spent, number, kept, told, label)
            if general is not None:
                kept.general(number, lambda: general(work.model))


def _score(
    work: Work,
    records: Numbered,
    why_not: Mapping[int, str],
    spent: Mapping[int, float],
    checkpoint: int,
    kept: Kept,
    told: Told | None,
    label: str,
) -> None:
    """These records' rows; the groups are always the same ones, so that sums are rounded the same.

    spent: seconds of the edit, of the newest batch's records.
    """
    done = kept.finished(checkpoint)
    for group in grouped(records):
        if not done.issuperset(at for at, _ in group):
            rows = [failed(at, record, checkpoint, why_not[at]) for at, record in group if at in why_not]
            rows += work.edited([one for one in group if one[0] not in why_not], checkpoint)
            kept.rows(_timed(row, spent) for row in rows)
        _tell(told, label, group[-1][0] - records[0][0] + 1, len(records))


def _timed(row: Row, spent: Mapping[int, float]) -> Row:
    return replace(row, seconds={"edit": spent[row.position], **row.seconds}) if row.position in spent else row


def _keep_missing(rows: Sequence[Row], checkpoint: int, kept: Kept) -> None:
    done = kept.finished(checkpoint)
    kept.rows([row for row in rows if row.position not in done])


def _unaskable(work: Work, records: Numbered) -> dict[int, str]:
    """The records, by position, with a fact that this model cannot be asked, and why."""
    owners = [position for position, record in records for _ in record.edits]
    bad = unaskable(work.model, [fact for _, record in records for fact in record.edits])
    return {owners[place]: why for place, why in bad.items()}


def _tell(told: Told | None, label: str, done: int, of: int) -> None:
    if told is not None:
        told(label, done, of)


def _made(work: Work, records: Numbered, history: Mapping[int, Any], told: Told | None) -> Made:
    """A batch's edit on the model as it is; a batch that fails is left out, and the next ones go on without it."""
    facts = [fact for _, record in records for fact in record.edits]
    if not facts:
        return Made(None, {}, "no record of its batch can be edited")
    began = time.perf_counter()
    try:
        edit, keys = work.solved(facts, history, told)
    except Exception as error:  # of whichever kind: the other batches are worth having
        log.debug("a batch failed", exc_info=True)
        return Made(None, {}, reason(error))
    return Made(edit, keys, seconds=time.perf_counter() - began)
