"""How a ledger lies on the disk: a page that lists its edits, and two files an edit.

`NNNN-….safetensors` is the edit itself, as any other; `NNNN-….state.safetensors` holds what it was solved from: keys
and values. Files are written first and the page last, whole: what is listed is there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rome_engine.edit.closed_form import Keys, Targets
from rome_engine.edit.configuration import configured
from rome_engine.edit.context import Contexts
from rome_engine.edit.edit import Edit
from rome_engine.edit.value import Value
from rome_engine.errors import EditError, EditFileError, StorageError, WrongWeightsError
from rome_engine.facts import Fact
from rome_engine.files import write_whole
from rome_engine.model.language_model import LanguageModel

FORMAT = "rome_engine.ledger/1"
PAGE = "ledger.json"
_OTHERWISE = (
    "the ledger's edits do not give the weights that it had: it is damaged, or was made on another kind of processor, "
    "which rounds otherwise; use it there, or make a ledger anew here by adding the edits again"
)
_TENSORS = ("target", "delta", "initial")
Config = TypeVar("Config")


@dataclass(frozen=True, eq=False)
class Entry:
    """A named edit, and what it was solved from: targets and, by layer, keys."""

    name: str
    targets: Targets
    edit: Edit
    keys: Keys


@dataclass(frozen=True)
class Page:
    """What a ledger was made with, and which files are its edits.

    base, weights: hashes of the model before the first edit and after the last. moments: content keys by layer.
    """

    method: str
    config: Mapping[str, Any]
    contexts: Contexts
    base: str
    weights: str
    moments: Mapping[int, str]
    files: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls, method: str, config: Any, contexts: Contexts, base: str, weights: str, moments: Mapping[int, str]
    ) -> Page:
        """The page of settings, as they come back from JSON."""
        return cls(method, json.loads(json.dumps(asdict(config))), contexts, base, weights, dict(moments))

    def configured(self, default: Config) -> Config:
        """The ledger's settings, given the method's default ones. Raises EditFileError."""
        try:
            return configured(default, self.config)
        except EditError as error:
            raise EditFileError(f"the ledger is of another version: {error}") from error

    def check_base(self, model: LanguageModel, weights: str) -> None:
        """Raises WrongWeightsError where the ledger was made for a model of other weights than these."""
        if weights != self.base:
            raise WrongWeightsError(f"the ledger was made for other weights than those of {model.name}")

    def check_moments(self, moments: Mapping[int, str]) -> None:
        """Raises EditError where the ledger was made with other moments."""
        if dict(moments) != dict(self.moments):
            raise EditError(
                "the ledger was made with other second moments: give those of the same corpus and sampling, or none to "
                "take its own"
            )

    @contextmanager
    def checked_weights(self, model: LanguageModel) -> Iterator[None]:
        """For applying the edits in. Raises EditFileError where they do not lead to the weights that were left."""
        try:
            yield
            same = model.weight_hash() == self.weights
        except WrongWeightsError as error:  # of an edit that was made on top of those before it
            raise EditFileError(_OTHERWISE) from error
        if not same:
            raise EditFileError(_OTHERWISE)


class LedgerFolder:
    """The folder, locked while it is held."""

    def __init__(self, path: Path, *, made: bool = False) -> None:
        self.path = path
        self._made = made
        self._lock = FileLock(path / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise StorageError(f"the ledger {path} is in use by another process: wait until that has ended") from error
        except OSError as error:
            raise StorageError(f"the ledger {path} cannot be written ({error.strerror or error})") from error

    @classmethod
    def new(cls, path: Path) -> LedgerFolder:
        """A new or empty folder. Raises StorageError for one that is in use."""
        made = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            used = [inside.name for inside in path.iterdir() if inside.name != ".lock"]
        except OSError as error:
            raise StorageError(f"no ledger can be made in {path}: {error.strerror or error}") from error
        if used:
            what = "is a ledger already: open it" if PAGE in used else "is not empty: choose another folder"
            raise StorageError(f"{path} {what}")
        return cls(path, made=made)

    @classmethod
    def existing(cls, path: Path) -> tuple[LedgerFolder, Page]:
        """A ledger's folder and page. Raises StorageError where there is none, EditFileError for a damaged one."""
        read_page(path)
        folder = cls(path)
        try:
            return folder, read_page(path)
        except BaseException:
            folder.close()
            raise

    def close(self) -> None:
        """Let others have it."""
        self._lock.release()

    def discard(self) -> None:
        """Undo `new`, for a ledger that has no edits."""
        (self.path / PAGE).unlink(missing_ok=True)
        self.close()
        with suppress(OSError):  # another process may have it by now
            (self.path / ".lock").unlink(missing_ok=True)
            if self._made:
                self.path.rmdir()

    def write(self, page: Page, entries: Sequence[Entry]) -> None:
        """Put the page and what it lists on the disk, and remove what it does not. Raises StorageError."""
        files = []
        for number, entry in enumerate(entries):
            name = _file_name(number, entry)
            edit, state = self.path / f"{name}.safetensors", self.path / f"{name}.state.safetensors"
            if not (edit.exists() and state.exists()):
                entry.edit.save(edit)
                write_whole(state, _state(entry))
            files.append((entry.name, name))
        record = {
            "format": FORMAT,
            **{name: getattr(page, name) for name in ("method", "config", "base", "weights", "moments")},
            "contexts": asdict(page.contexts),
            "edits": [{"name": name, "file": file} for name, file in files],
        }
        write_whole(self.path / PAGE, json.dumps(record, indent=1).encode())
        listed = {f"{file}{ending}" for _, file in files for ending in (".safetensors", ".state.safetensors")}
        for path in self.path.glob("*.safetensors"):
            if path.name not in listed:
                path.unlink(missing_ok=True)

    def entries(self, page: Page) -> Iterator[Entry]:
        """The edits in their order. Raises EditFileError where one is damaged, StorageError where one is missing."""
        for name, file in page.files:
            edit = Edit.load(self.path / f"{file}.safetensors")
            path = self.path / f"{file}.state.safetensors"
            with _damage(path), safe_open(path, framework="pt") as state:
                tensors = {key: state.get_tensor(key) for key in state.keys()}  # noqa: SIM118
                about = json.loads(state.metadata()["state"])
                yield Entry(name, _targets(edit, tensors, about, page.contexts), edit, _keys(tensors))


def _file_name(number: int, entry: Entry) -> str:
    """Told apart by content: an edit that is solved again gets another file."""
    digest = hashlib.sha256(entry.name.encode())
    for layer, change in entry.edit.layers.items():
        digest.update(f"{layer} {change.weight_sha256}".encode())
        for factor in (change.left, change.right):
            digest.update(factor.contiguous().numpy().data)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", entry.name)[:40]
    return f"{number:05d}-{plain}-{digest.hexdigest()[:12]}"


def _state(entry: Entry) -> bytes:
    tensors = {f"keys.{layer}": keys.contiguous() for layer, keys in entry.keys.items()}
    values = entry.targets.values
    tensors |= {name: torch.stack([getattr(value, name) for value in values]) for name in _TENSORS}
    about = [
        {"losses": value.losses, "stopped_early": value.stopped_early, "seconds": value.seconds} for value in values
    ]
    seconds = dict(entry.targets.seconds)
    return save(tensors, {"format": FORMAT, "state": json.dumps({"values": about, "seconds": seconds})})


def _keys(tensors: Mapping[str, Tensor]) -> dict[int, Tensor]:
    return {int(name.removeprefix("keys.")): tensor for name, tensor in tensors.items() if name.startswith("keys.")}


def _targets(edit: Edit, tensors: Mapping[str, Tensor], about: Mapping[str, Any], contexts: Contexts) -> Targets:
    values = [
        Value(
            **{name: tensors[name][index].clone() for name in _TENSORS},
            losses=tuple(known["losses"]),
            stopped_early=known["stopped_early"],
            seconds=known["seconds"],
        )
        for index, known in enumerate(about["values"])
    ]
    facts = tuple(Fact.from_dict(fact) for fact in edit.provenance.facts)
    if len(facts) != len(values):
        raise EditFileError("its facts and values are not of one number")
    return Targets(facts, contexts, tuple(values), about["seconds"])


def read_page(folder: Path) -> Page:
    """A ledger's page alone. Raises StorageError where there is none, EditFileError for a damaged one."""
    path = folder / PAGE
    if not path.is_file():
        raise StorageError(f"there is no ledger in {folder}: check the path, or make one by adding an edit")
    with _damage(path):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise EditFileError(f"its format is {record['format']!r}, not {FORMAT!r}")
        contexts = Contexts(tuple(record["contexts"]["templates"]), record["contexts"]["bare"])
        return Page(
            **{name: record[name] for name in ("method", "config", "base", "weights")},
            moments={int(layer): key for layer, key in record["moments"].items()},
            contexts=contexts,
            files=tuple((edit["name"], edit["file"]) for edit in record["edits"]),
        )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What is wrong with a file, as the package's own errors."""
    try:
        yield
    except FileNotFoundError as error:
        raise EditFileError(f"{path} is missing: the ledger is damaged") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, EditError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EditFileError(f"{path} is damaged, or no ledger's: {reason[:200]}") from error
