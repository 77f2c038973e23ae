"""What a data set is: its records, and what in its file is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rome_engine.bench.record import Record


@dataclass(frozen=True)
class Malformed:
    """Something in a file that is no usable record: where it stands, for people, and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class DataSet:
    """The records of a file, or of a folder of them.

    sha256: of the file's content; of the names and contents of a folder's files. Every record has an id of its own: one
    that was there before is followed by # and its count. references: sha256 of the file that the records' texts to
    compare with were taken from; None where they came with the records.
    """

    name: str
    sha256: str
    records: tuple[Record, ...]
    malformed: tuple[Malformed, ...]
    path: Path
    references: str | None = None


@dataclass(frozen=True)
class Schema:
    """A kind of record. marks: fields, with spaces between them, that tell it when all of them are there; or others.

    record: makes the record of a JSON object and of the id that it gets if it brings none; raises PromptError and its
    kinds.
    """

    name: str
    marks: tuple[str, ...]
    record: Callable[[Mapping[str, Any], str], Record]

    def told_by(self, content: Mapping[str, Any]) -> bool:
        """Whether the fields are this schema's."""
        return any(set(mark.split()) <= set(content) for mark in self.marks)
