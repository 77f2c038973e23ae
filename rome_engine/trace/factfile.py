"""Facts from JSON and JSONL files in the field's schemas; records that cannot be used are listed, the rest goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rome_engine.errors import PromptError, RomeEngineError, StorageError
from rome_engine.facts import Fact

LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Malformed:
    """A record that is no usable fact: its number in the file, from 1, and why."""

    number: int
    reason: str


@dataclass(frozen=True)
class FactFile:
    """The facts of a file with their numbers in it, from 1; `records` counts the malformed ones too."""

    name: str
    sha256: str
    facts: tuple[tuple[int, Fact], ...]
    malformed: tuple[Malformed, ...] = ()

    @property
    def records(self) -> int:
        return len(self.facts) + len(self.malformed)


def read_facts(path: str | Path) -> FactFile:
    """The facts of a JSON list or of a file with one JSON object a line.

    A record is one of: this package's own (the fields of `Fact`); ROME's "known" facts (prompt, subject, attribute,
    known_id, relation_id: Meng et al. 2022, tracing data); CounterFact's (requested_rewrite, case_id; its paraphrases
    and other texts are left out).
    Raises StorageError for a file that cannot be read or is no JSON, PromptError where no record can be used.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        records = list(_records(content.decode("utf-8-sig"), path))
    except OSError as error:
        raise StorageError(f"cannot read the facts {path}: {error.strerror or error} (check the path)") from error
    except UnicodeDecodeError as error:
        raise StorageError(f"cannot read the facts {path}: it is no UTF-8 text; save it as JSON in UTF-8") from error
    facts: list[tuple[int, Fact]] = []
    malformed: list[Malformed] = []
    for number, record in enumerate(records, 1):
        try:
            facts.append((number, _fact(record)))
        except RomeEngineError as error:
            malformed.append(Malformed(number, str(error)))
    if not facts:
        first = f"; the first one: {malformed[0].reason}" if malformed else ""
        raise PromptError(f"no usable fact among the {len(records)} records of {path}{first}")
    return FactFile(path.name, hashlib.sha256(content).hexdigest(), tuple(facts), tuple(malformed))


def _records(text: str, path: Path) -> Iterator[Any]:
    """The records of either form; a line that is no JSON comes as its error."""
    if path.suffix.lower() not in LINES:
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StorageError(
                f"cannot read the facts {path}: it is no JSON ({error}); name it {path.stem}.jsonl if each line is a "
                "record"
            ) from error
        if not isinstance(whole, list):
            raise StorageError(f"cannot read the facts {path}: a JSON file of facts is a list of objects")
        yield from whole
        return
    for line in text.split("\n"):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield PromptError(f"the line is no JSON: {error}")


def _fact(record: Any) -> Fact:
    """The fact of one record in whichever schema. Raises PromptError and its kinds."""
    if isinstance(record, PromptError):
        raise record
    if not isinstance(record, dict):
        raise PromptError(f"a record is a JSON object, not {type(record).__name__}")
    return _schema(record)(record)


def _schema(record: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Fact]:
    if "requested_rewrite" in record:
        return _counterfact
    return _known if "attribute" in record else _own


def _own(record: Mapping[str, Any]) -> Fact:
    lists = {field.name for field in fields(Fact) if field.default == ()}
    for name, value in record.items():
        texts = value if name in lists and isinstance(value, list) else [value]
        if (name in lists) != isinstance(value, list) or not all(isinstance(text, str | None) for text in texts):
            raise PromptError(f"the field {name!r} of a fact is no {'list of texts' if name in lists else 'text'}")
    prompt, subject = _text(record, "prompt"), _text(record, "subject")
    place = Fact.of(prompt, subject).prompt
    return Fact.from_dict({**record, "prompt": place})


def _known(record: Mapping[str, Any]) -> Fact:
    return Fact.of(
        _text(record, "prompt"),
        _text(record, "subject"),
        target_true=_text(record, "attribute").strip(),
        relation=_optional(record, "relation_id"),
        id=_optional(record, "known_id"),
    )


def _counterfact(record: Mapping[str, Any]) -> Fact:
    asked = _object(record, "requested_rewrite")
    return Fact.of(
        _text(asked, "prompt"),
        _text(asked, "subject"),
        target_true=_text(_object(asked, "target_true"), "str").strip(),
        target_new=_text(_object(asked, "target_new"), "str").strip(),
        relation=_optional(asked, "relation_id"),
        id=_optional(record, "case_id"),
    )


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise PromptError(
            f"the record has no text {name!r}" if value is None else f"{name!r} is no text: {value!r:.60}"
        )
    return value


def _object(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = record.get(name)
    if not isinstance(value, dict):
        raise PromptError(f"the record has no object {name!r}")
    return value


def _optional(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    return None if value is None else str(value)
