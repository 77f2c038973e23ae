"""Edits on top of each other: batch after batch stays in force, and after each the records so far are scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import safetensors.torch

from rome_engine.bench.batch_edit import Made, make
from rome_engine.bench.effects import unaskable
from rome_engine.bench.plan import Plan, grouped
from rome_engine.bench.run import BEFORE, Row
from rome_engine.bench.run_file import RunFile
from rome_engine.bench.work import Numbered, Told, Work, failed
from rome_engine.edit.closed_form import extended
from rome_engine.edit.edit import Edit


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
        kept = json.loads(self.file.state(f"{number} left out") or "{}")
        left_out = {int(at): why for at, why in kept.items()}
        why = self.file.state(f"{number} failed")
        if why is not None:
            return Made(None, {}, left_out, why.decode())
        edit, keys, seconds = (self.file.state(f"{number} {what}") for what in ("edit", "keys", "seconds"))
        if edit is None or keys is None or seconds is None:
            return None
        found = {int(at): of for at, of in safetensors.torch.load(keys).items()}
        return Made(Edit.from_bytes(edit, f"the edit of batch {number}"), found, left_out, seconds=float(seconds))

    def keep_batch(self, number: int, made: Made) -> None:
        """Put it down, where it is not there yet."""
        if self.batch(number) is not None:
            return
        states = {"left out": json.dumps(dict(made.left_out)).encode()}
        if made.edit is None:
            states["failed"] = made.why.encode()
        else:
            keys = safetensors.torch.save({str(at): of.contiguous() for at, of in made.keys.items()})
            states |= {"edit": made.edit.to_bytes(), "keys": keys, "seconds": repr(made.seconds).encode()}
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
            tell = _of_batch(told, number, len(batches))
            made = kept.batch(number) or make(work, [records[at] for at in batch if at not in why_not], history, tell)
            kept.keep_batch(number, made if keeps_history else replace(made, keys={}))
            why_not |= made.left_out
            if made.edit is None:
                why_not |= {at: made.why for at in batch if at not in why_not}
            else:
                in_force.callback(made.edit.apply_(work.model).undo)
                history = extended(history, made.keys) if keeps_history else {}
            scored = plan.scored(batches, number)
            spent = {at: made.seconds / len(batch) for at in batch if at not in why_not}
            _score(work, records[scored.start : scored.stop], why_not, spent, number, kept, tell)
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
        _tell(told, "scoring", group[-1][0] - records[0][0] + 1, len(records))


def _of_batch(told: Told | None, number: int, batches: int) -> Told | None:
    """What is told of a batch's work, with its number."""
    if told is None or batches == 1:
        return told
    return lambda phase, done, of: told(f"batch {number + 1} of {batches}: {phase}", done, of)


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
