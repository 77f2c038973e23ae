"""Finished values by content: a run that was killed goes on, and methods with the same target share its cost.

A value belongs to weights and what runs them (`versions.computed_by`), the tokens of a fact's rows (so to its prompt,
subject, target, contexts and tokenizer), a layer, a place and settings; none is ever found by a name. One SQLite file
holds them; any number of processes may use it at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch

from rome_engine.edit.question import Question
from rome_engine.edit.value import Place, Value, ValueConfig
from rome_engine.errors import InUseError, NoRoomError
from rome_engine.model.embedded import cache_home
from rome_engine.sqlite import SqliteFile

APPLICATION = 0x56414C53  # "VALS", by which SQLite files are told apart
RECIPE = 1
"""Part of every key: another number where the search itself is changed, so that it would find other values."""
VERSION = 0
_TABLES = (
    "CREATE TABLE found (key TEXT PRIMARY KEY, tensors BLOB NOT NULL, about TEXT NOT NULL, sha256 TEXT NOT NULL)",
)
_TENSORS = ("target", "delta", "initial")
_NUMBERS = ("losses", "stopped_early", "seconds")
_WAIT = 60.0  # seconds for another process's write, which takes milliseconds
_AT_ONCE = 500

_log = logging.getLogger(__name__)


def content_key(origin: str, question: Question, layer: int, place: Place, config: ValueConfig) -> str:
    """The key of a fact's value. origin: `LanguageModel.weight_hash`, and what the model is run by."""
    content = {
        "recipe": RECIPE,
        "origin": origin,
        "rows": [(row.cut, row.ids) for row in question.texts],
        "contexts": question.n_contexts,
        "essence": question.essence,
        "target": question.target,
        "layer": layer,
        "place": place,
        "config": asdict(config),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def in_cache() -> ValueStore | None:
    """The store `values.sqlite` of the cache folder; None, with a warning, where that folder cannot be written."""
    folder = cache_home()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if os.access(folder, os.W_OK):
        try:
            return ValueStore(folder / "values.sqlite")
        except (NoRoomError, InUseError) as error:
            _log.warning("%s", error)
            return None
    _log.warning("values are not kept, as %s cannot be written: XDG_CACHE_HOME names another folder", folder)
    return None


class ValueStore(SqliteFile):
    """The file, made where it is not there yet and shared with all that use it. Raises as `SqliteFile` does."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            kind="store of values",
            application=APPLICATION,
            version=VERSION,
            tables=_TABLES,
            exclusive=False,
            wait=_WAIT,
            another="delete it, and the values will be searched again",
        )

    def find(self, keys: Sequence[str]) -> dict[str, Value]:
        """Those values of these keys that are there, bit for bit as they were kept.

        One whose bytes are not those that were written is logged as a warning and passed over.
        """
        found: dict[str, Value] = {}
        for begin in range(0, len(keys), _AT_ONCE):
            some = keys[begin : begin + _AT_ONCE]
            query = f"SELECT key, tensors, about, sha256 FROM found WHERE key IN ({', '.join('?' * len(some))})"
            with self.errors():
                rows = self.sqlite.execute(query, some).fetchall()
            for key, tensors, about, sha256 in rows:
                if _sha256(tensors, about) == sha256:
                    found[key] = _read(tensors, about)
                else:
                    _log.warning("a value in %s is damaged, and is searched again", self.path)
        return found

    def keep(self, values: Mapping[str, Value]) -> None:
        """Put down values by their keys, all or none; they are on the disk then."""
        rows = []
        for key, value in values.items():
            tensors = safetensors.torch.save({name: getattr(value, name).contiguous() for name in _TENSORS})
            about = json.dumps({name: getattr(value, name) for name in _NUMBERS})
            rows.append((key, tensors, about, _sha256(tensors, about)))
        with self.transaction():
            self.sqlite.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?, ?)", rows)


def _read(tensors: bytes, about: str) -> Value:
    fields: dict[str, Any] = {**safetensors.torch.load(tensors), **json.loads(about)}
    return Value(**{**fields, "losses": tuple(fields["losses"])})


def _sha256(tensors: bytes, about: str) -> str:
    return hashlib.sha256(tensors + about.encode()).hexdigest()
