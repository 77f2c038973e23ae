"""What the untouched model answers: asked once a model, kept in the cache, used by every method and run."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rome_engine.bench.answering import MEMORY, answer
from rome_engine.bench.asks import (
    Answer,
    Answers,
    Ask,
    ForcedAnswer,
    Generated,
    GeneratedAnswer,
    NextAnswer,
    ReadAnswer,
)
from rome_engine.bench.nll import Progress
from rome_engine.errors import BenchError, InUseError, NoRoomError
from rome_engine.model.embedded import cache_home
from rome_engine.model.language_model import LanguageModel
from rome_engine.sqlite import SqliteFile
from rome_engine.versions import computed_by

APPLICATION = 0x414E5357  # "ANSW", by which SQLite files are told apart
VERSION = 1
_TABLES = ("CREATE TABLE answers (key TEXT PRIMARY KEY, kind TEXT NOT NULL, content BLOB NOT NULL)",)
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (ForcedAnswer, ReadAnswer, GeneratedAnswer)}
_RECIPES: dict[type, str] = {Generated: "Generated@2"}  # another one where the same ask gets another answer
_AT_ONCE = 500
_WAIT = 60.0  # seconds for another process's write, which takes milliseconds
_REMEDY = "delete it, and the model is asked again"

log = logging.getLogger(__name__)


class Untouched:
    """Answers of a model before any edit. To be made, and asked, while no edit is in force; a context manager.

    path: the file that keeps them; None is `answers.sqlite` in the cache folder. Where that cannot be written a warning
    is logged, and nothing is kept. An answer belongs to weights and what runs them (config
    and `versions.computed_by`), tokenizer and ask, never to a name.
    """

    def __init__(self, model: LanguageModel, path: Path | None = None, memory: int = MEMORY) -> None:
        self._model, self._memory = model, memory
        self._whose = _identity(model)
        self._held: dict[str, Answer] = {}
        self._file = _opened(path)

    def __enter__(self) -> Untouched:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def answers(self, asked: Sequence[Iterable[Ask]], progress: Progress | None = None) -> list[Answers]:
        """As `answer`, what is known already from the file."""
        distinct = [tuple(dict.fromkeys(asks)) for asks in asked]
        wanted = {ask: self._key(ask) for asks in distinct for ask in asks}
        found = self._find(wanted)
        missing = [ask for ask in wanted if ask not in found]
        if missing:
            (new,) = answer(self._model, [missing], memory=self._memory, progress=progress)
            self._keep({wanted[ask]: one for ask, one in new.found.items()})
            found.update(new.found)
        self._held.update({wanted[ask]: one for ask, one in found.items()})
        return [Answers({ask: found[ask] for ask in asks}) for asks in distinct]

    @property
    def keeps(self) -> bool:
        """Whether there is a file."""
        return self._file is not None

    def missing(self, asks: Iterable[Ask]) -> list[Ask]:
        """Those of the asks, each once, whose answers are not in the file."""
        wanted = {ask: self._key(ask) for ask in dict.fromkeys(asks)}
        found = self._find(wanted)
        return [ask for ask in wanted if ask not in found]

    def take(self, new: Mapping[Ask, Answer | Tensor]) -> None:
        """Keep answers that this very model gave elsewhere; of a next token the hidden state."""
        self._keep(
            {
                self._key(ask): NextAnswer(one, self._model) if isinstance(one, Tensor) else one
                for ask, one in new.items()
            }
        )

    def known(self, asked: Sequence[Iterable[Ask]]) -> list[Answers]:
        """The same of what was asked before, whatever has become of the model. Raises BenchError for other asks."""
        try:
            return [Answers({ask: self._held[self._key(ask)] for ask in asks}) for asks in asked]
        except KeyError as error:
            raise BenchError("this was not asked of the untouched model: ask it before the model is edited") from error

    def _key(self, ask: Ask) -> str:
        said = json.dumps([self._whose, _RECIPES.get(type(ask), type(ask).__name__), asdict(ask)], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def _find(self, wanted: dict[Ask, str]) -> dict[Ask, Answer]:
        if self._file is None:
            return {}
        kept: dict[str, Answer] = {}
        keys = list(wanted.values())
        try:
            for begin in range(0, len(keys), _AT_ONCE):
                some = keys[begin : begin + _AT_ONCE]
                query = f"SELECT key, kind, content FROM answers WHERE key IN ({', '.join('?' * len(some))})"
                with self._file.errors():
                    for key, kind, content in self._file.sqlite.execute(query, some):
                        kept[key] = self._read(kind, content)
        except (InUseError, NoRoomError) as error:  # readers need room too, for the files beside it
            log.warning("%s", error)
        return {ask: kept[key] for ask, key in wanted.items() if key in kept}

    def _keep(self, new: dict[str, Answer]) -> None:
        if self._file is None:
            return
        rows = [(key, type(one).__name__, _content(one)) for key, one in new.items()]
        try:
            with self._file.transaction():
                self._file.sqlite.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", rows)
        except (InUseError, NoRoomError) as error:
            log.warning("%s", error)

    def _read(self, kind: str, content: bytes) -> Answer:
        if kind == NextAnswer.__name__:
            return NextAnswer(torch.from_numpy(np.frombuffer(content, dtype=np.float32).copy()), self._model)
        fields: dict[str, Any] = json.loads(content)
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        made: Answer = _KINDS[kind](**given)
        return made


def _content(one: Answer) -> bytes:
    if isinstance(one, NextAnswer):
        return one.hidden.numpy().astype(np.float32).tobytes()
    return json.dumps(asdict(one)).encode()


def _identity(model: LanguageModel) -> str:
    return f"{model.weight_hash()} {model.config_hash()} {model.tokenizer_hash()} {computed_by(model.device)}"


def _opened(path: Path | None) -> SqliteFile | None:
    try:
        if path is None:
            folder = cache_home()
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "answers.sqlite"
        return SqliteFile(
            path,
            kind="store of answers",
            application=APPLICATION,
            version=VERSION,
            tables=_TABLES,
            exclusive=False,
            wait=_WAIT,
            another=_REMEDY,
        )
    except (OSError, InUseError, NoRoomError) as error:
        log.warning("the untouched model's answers are not kept: %s", error)
        return None
