"""The facts of a file, and its records that are none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rome_engine.errors import PromptError, RomeEngineError, StorageError
from rome_engine.fact_files import schemas
from rome_engine.fact_files.records import records
from rome_engine.facts import Fact


@dataclass(frozen=True)
class Malformed:
    """A record that is no usable fact: its number in the file, from 1, why, and its line where it has one."""

    number: int
    reason: str
    line: int | None = None

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"record {self.number}" if self.line is None else f"line {self.line}"


@dataclass(frozen=True)
class FactFile:
    """The facts of a file with their numbers in it, from 1; `records` counts the malformed ones too.

    lines: of those records that have one, by number.
    """

    name: str
    sha256: str
    facts: tuple[tuple[int, Fact], ...]
    malformed: tuple[Malformed, ...] = ()
    lines: tuple[tuple[int, int], ...] = ()

    @property
    def records(self) -> int:
        return len(self.facts) + len(self.malformed)


def read_facts(path: str | Path) -> FactFile:
    """The facts of a JSON list, of a file with one JSON object a line (.jsonl), or of a table (.csv).

    A record is one of: this package's own (the fields of `Fact`; in a table, lists are JSON or texts with | between
    them); ROME's "known" facts (prompt, subject, attribute: Meng et al. 2022, tracing data); CounterFact's, as it was
    published (requested_rewrite) or flat (ground_truth); zsRE's (src, subject, alt). Fields that a schema has not, and
    fields given twice, make a record malformed; columns that none has, a table.
    Raises StorageError for a file that cannot be read or is none of these, PromptError where no record can be used.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        found = list(records(content.decode("utf-8-sig"), path, schemas.FIELDS))
    except OSError as error:
        raise StorageError(f"cannot read the facts {path}: {error.strerror or error} (check the path)") from error
    except UnicodeDecodeError as error:
        raise StorageError(f"cannot read the facts {path}: it is no UTF-8 text; save it as JSON in UTF-8") from error
    facts: list[tuple[int, Fact]] = []
    malformed: list[Malformed] = []
    for number, record in enumerate(found, 1):
        try:
            if isinstance(record.content, PromptError):
                raise record.content
            facts.append((number, schemas.fact(record.content)))
        except RomeEngineError as error:
            malformed.append(Malformed(number, str(error), record.line))
    if not facts:
        first = f"; the first one: {malformed[0].reason}" if malformed else ""
        raise PromptError(f"no usable fact among the {len(found)} records of {path}{first}")
    lines = tuple((number, record.line) for number, record in enumerate(found, 1) if record.line is not None)
    return FactFile(path.name, hashlib.sha256(content).hexdigest(), tuple(facts), tuple(malformed), lines)
