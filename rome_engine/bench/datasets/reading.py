"""Files and folders read as data sets; what is no record is told, and the rest goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rome_engine.bench.datasets import counterfact, knowedit, lre, mquake, own, qaedit, ripple, scan, zsre
from rome_engine.bench.datasets.dataset import DataSet, Malformed, Schema
from rome_engine.bench.datasets.download import Told, download, forget
from rome_engine.bench.datasets.sources import SOURCES, Source
from rome_engine.bench.record import Record
from rome_engine.errors import BenchError, PromptError, RomeEngineError, StorageError
from rome_engine.fact_files.records import LINES, TABLE, records
from rome_engine.resources import data_file

# A record is of the first schema whose marks it has.
SCHEMAS = (
    mquake.SCHEMA,
    knowedit.SCHEMA,
    counterfact.SCHEMA,
    ripple.SCHEMA,
    zsre.SCHEMA,
    qaedit.SCHEMA,
    own.SCHEMA,
)

NAMES = (own.SCHEMA.name, *(name for name, source in SOURCES.items() if source.schema is not None))
"""The data sets that need no file: this package's own, and those that are fetched."""

Found = Iterator[tuple[int | None, Any]]


def read(name: str | None = None, path: Path | None = None, told: Told | None = None) -> DataSet:
    """A data set: a file of your own, or one by name, which is fetched once and kept.

    name: one of NAMES; with a path, that or a schema in which the file is to be read, else each record's schema is told
    from its fields. path: a JSON list, lines of JSON (.jsonl), a table (.csv), one of LRE's relations, or a folder of
    these relations. Without either, the facts that come with the package. told: is told how far fetching is.
    Raises BenchError for an unknown name and where no record can be used; StorageError for what cannot be read or
    fetched.
    """
    schema, source = _called(name)
    if path is not None:
        return _data_set(path, path.name, schema)
    path = _kept(name, source, told)
    try:
        return _data_set(path, name or own.SCHEMA.name, schema)
    except RomeEngineError:
        if source is not None:
            forget(source)
        raise


def _data_set(path: Path, title: str, schema: str | None) -> DataSet:
    files = _files(path, schema)
    schema = lre.NAME if path.is_dir() else schema
    contents = [_content(file) for file in files]
    good: list[Record] = []
    bad: list[Malformed] = []
    for file, content in zip(files, contents, strict=True):
        try:
            for place, record in _records(file, content, schema):
                if isinstance(record, Record):
                    good.append(record)
                else:
                    bad.append(Malformed(f"{file.name}, {place}" if path.is_dir() else place, str(record)))
        except StorageError as error:
            if not path.is_dir():
                raise
            bad.append(Malformed(file.name, str(error)))
    if not good:
        first = f"; the first one, {bad[0].place}: {bad[0].reason}" if bad else ""
        raise BenchError(f"no usable record among the {len(bad)} of {path}{first}")
    return DataSet(title, _digest(files, contents, path.is_dir()), _told_apart(good), tuple(bad), path)


def _called(name: str | None) -> tuple[str | None, Source | None]:
    """The schema and the source that a name stands for."""
    source = SOURCES.get(name or "")
    schemas = {*(schema.name for schema in SCHEMAS), lre.NAME}
    if name is not None and source is None and name not in schemas:
        raise BenchError(f"there is no data set {name!r}: there are {', '.join(sorted({*NAMES, *schemas}))}")
    if source is not None and source.schema is None:
        raise BenchError(f"{name} holds facts to trace, without new targets: nothing can be edited with it")
    return (source.schema if source else name), source


def _kept(name: str | None, source: Source | None, told: Told | None) -> Path:
    if source is not None:
        return download(source, told=told)
    if name in (None, own.SCHEMA.name):
        return data_file(own.FILE)
    raise BenchError(
        f"{name!r} is a schema of files: give the file with --data PATH, or take one of {', '.join(NAMES)}"
    )


def _files(path: Path, schema: str | None) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"))
    if schema not in (None, lre.NAME) or not files:
        raise StorageError(f"cannot read the data {path}: it is a folder, and only LRE's relations (.json) come as one")
    return files


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read the data {file}: {error.strerror or error} (check the path)") from error


def _digest(files: list[Path], contents: list[bytes], folder: bool) -> str:
    each = [hashlib.sha256(content).hexdigest() for content in contents]
    if not folder:
        return each[0]
    listed = "".join(f"{one}  {file.name}\n" for one, file in zip(each, files, strict=True))
    return hashlib.sha256(listed.encode()).hexdigest()


def _records(file: Path, content: bytes, schema: str | None) -> Iterator[tuple[str, Record | RomeEngineError]]:
    """The records of a file, or what is wrong with them, and where each stands."""
    number = 0
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(f"cannot read the data {file}: it is no UTF-8 text; save it as UTF-8") from error
    try:
        if file.suffix.lower() in (*LINES, TABLE):
            found: Found = ((one.line, one.content) for one in records(text, file))
        elif schema == lre.NAME or (schema is None and text.startswith("{", scan.begin(text))):
            found = lre.records(text)
        else:
            found = scan.with_lines(text, scan.whole_list(text))
        for number, (line, one) in enumerate(found, 1):
            yield f"line {line}", one if isinstance(one, Record) else _record(one, schema, str(number))
    except PromptError as error:  # a file that is no relation
        yield "line 1", error
    except (ValueError, RecursionError) as error:
        broken = f"line {getattr(error, 'lineno', 1)}"
        if number:
            yield broken, StorageError(f"the file is no JSON from here on, and what follows was not read ({error})")
            return
        raise StorageError(
            f"cannot read the data {file}: it is no JSON list ({error}); name it {file.stem}.jsonl if each line is a "
            "record"
        ) from error


def _record(content: Any, schema: str | None, id: str) -> Record | RomeEngineError:
    if isinstance(content, RomeEngineError):
        return content
    try:
        _check(content)
        return _schema(content, schema).record(content, id)
    except RomeEngineError as error:
        return error


def _check(content: Any) -> None:
    if not isinstance(content, dict):
        raise PromptError(f"a record is a JSON object, not {type(content).__name__}")
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise PromptError("it holds half a character (a surrogate alone), which no tokenizer takes") from error


def _schema(content: dict[str, Any], name: str | None) -> Schema:
    told = [schema for schema in SCHEMAS if schema.told_by(content)]
    if name is not None:
        told = [schema for schema in told if schema.name == name]
    if not told:
        known = f"no record of {name}" if name else "no record of a known schema"
        raise PromptError(f"it is {known}: its fields are {', '.join(sorted(content)) or 'none'}")
    return told[0]


def _told_apart(records: list[Record]) -> tuple[Record, ...]:
    """The records with their ids; the second and later ones of an id with their count behind it."""
    own, taken, apart = {record.id for record in records}, set[str](), []
    for record in records:
        id, count = record.id, 1
        while id in taken or (count > 1 and id in own):
            count += 1
            id = f"{record.id}#{count}"
        taken.add(id)
        apart.append(replace(record, id=id))
    return tuple(apart)
