"""A ledger: named edits in order, each solved on the model as those before it left it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rome_engine.edit.closed_form import ClosedForm, Keys, Moments, Targets, extended
from rome_engine.edit.edit import Edit
from rome_engine.edit.editor import History
from rome_engine.edit.ledger_folder import Entry, LedgerFolder, Page
from rome_engine.edit.methods import editor
from rome_engine.edit.stack import Handle
from rome_engine.edit.value import Progress
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import stored


def closed_form(method: str) -> ClosedForm:
    """The editor of a method that a ledger can have. Raises EditError for any other."""
    found = editor(method)
    if not isinstance(found, ClosedForm):
        raise EditError(f"{method} solves for no weights and cannot be kept in a ledger: use memit or another one")
    return found


class Ledger:
    """The edits of one method on one model, in force as long as the ledger is open.

    An edit is solved on the model with the edits before it in force, and with their history for methods that keep one.
    Whatever raises, the ledger, its folder and the model are as before. Taking an edit out, or moving it, solves those
    behind it again. The contexts are sampled once, from the model as it is before the first edit.

    folder: where it is kept, new or empty; None keeps nothing. Every change is on the disk when its call returns.
    A context manager; leaving it closes the ledger, and a new one that an error leaves without edits is not kept.
    Raises EditError for a method that solves for no weights, or a folder that holds a ledger; StorageError.
    """

    def __init__(
        self,
        model: LanguageModel,
        method: str,
        moments: Moments,
        config: Any = None,
        folder: str | Path | None = None,
    ) -> None:
        self._start(model, method)
        self._moments = moments
        self.config = self._editor.default(model) if config is None else config
        self.contexts = self._editor.contexts(model, self.config)
        self._folder = None if folder is None else LedgerFolder.new(Path(folder))
        self._new = True
        try:
            self._save()
        except BaseException:
            self._discard()
            raise

    @classmethod
    def open(cls, folder: str | Path, model: LanguageModel, moments: Moments | None = None) -> Ledger:
        """A ledger that was kept, with all its edits applied: the weights are bit for bit what they were.

        moments: None finds those it was made with, shipped or cached.
        Raises EditError for a model or moments that it was not made with, EditFileError for one that is damaged or was
        made on a processor that rounds otherwise, StatisticsError for moments that are gone, StorageError where there
        is none or another process has it open. Nothing is changed then.
        """
        kept, page = LedgerFolder.existing(Path(folder))
        ledger = cls.__new__(cls)
        try:
            ledger._start(model, page.method)
            page.check_base(model, ledger._base)
            ledger._moments = stored(model, page.moments) if moments is None else moments
            ledger.config = page.configured(ledger._editor.default(model))
            ledger.contexts = page.contexts
            ledger._folder = kept
            ledger._new = False
            page.check_moments(ledger._moment_keys())
            try:
                with page.checked_weights(model):
                    for entry in kept.entries(page):
                        ledger._put(entry)
            except BaseException:
                ledger._take(0)
                raise
        except BaseException:
            kept.close()
            raise
        return ledger

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None and self._new and not self._entries:
            self._discard()
        self.close()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def method(self) -> str:
        """The method's name."""
        return self._editor.name

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The edits in their order."""
        return tuple(self._entries)

    def add(self, name: str, facts: Sequence[Fact], progress: Progress | None = None) -> Edit:
        """Edit these facts on top of what there is, and apply the edit.

        Facts whose targets are the answers already are edited like the rest.
        Raises EditError for a name that is taken, and as `Editor.fit` does.
        """
        self._check_new(name)
        self._editor.check(self._model, len(facts), self._moments, self.config, self._history or None)
        return self.add_targets(name, self._search(facts, progress))

    def add_targets(self, name: str, targets: Targets) -> Edit:
        """As `add`, for values that are known."""
        self._check_new(name)
        self._rewrite(len(self), [(name, targets)])
        return self._entries[-1].edit

    def remove(self, name: str, *, search: bool = True, progress: Progress | None = None) -> None:
        """Take an edit out and solve those behind it again: all is then as if it had never been made.

        search: whether the values of those behind it are searched again too; False keeps them and is quick.
        Raises EditError for a name that is not there.
        """
        at = self._at(name)
        self._again(at, self._entries[at + 1 :], search, progress)

    def truncate(self, length: int) -> None:
        """Take all edits out but so many, the first ones."""
        self._check_open()
        self._rewrite(length, [])

    def move(self, name: str, to: int, *, search: bool = True, progress: Progress | None = None) -> None:
        """Put an edit at another place in the order, 0 the first; all is then as if it had been made there.

        search: see `remove`. Raises EditError for a name or a place that is not there.
        """
        at = self._at(name)
        if not 0 <= to < len(self):
            raise EditError(f"there is no place {to}: the ledger's edits have the places 0 to {len(self) - 1}")
        order = [entry for entry in self._entries if entry.name != name]
        order.insert(to, self._entries[at])
        begin = min(at, to)
        self._again(begin, order[begin:], search, progress)

    def close(self) -> None:
        """Take all edits out of the model, whose weights are then bit for bit what they were; the folder stays."""
        self._take(0)
        self._closed = True
        if self._folder is not None:
            self._folder.close()

    def _start(self, model: LanguageModel, method: str) -> None:
        self._model, self._editor = model, closed_form(method)
        self._base = model.weight_hash()
        self._entries: list[Entry] = []
        self._handles: list[Handle] = []
        self._history: History = {}
        self._closed = False

    def _search(self, facts: Sequence[Fact], progress: Progress | None) -> Targets:
        # What other edits bring about must not decide whether one can be made again.
        return self._editor.search(self._model, facts, self.config, progress, contexts=self.contexts, new_only=False)

    def _again(self, begin: int, tail: Sequence[Entry], search: bool, progress: Progress | None) -> None:
        self._rewrite(
            begin, [(entry.name, entry.targets.facts if search else entry.targets) for entry in tail], progress
        )

    def _rewrite(
        self, begin: int, tail: Sequence[tuple[str, Targets | Sequence[Fact]]], progress: Progress | None = None
    ) -> None:
        """Put these in the place of all edits from `begin` on."""
        before = self._entries[begin:]
        try:
            self._take(begin)
            for name, given in tail:
                targets = given if isinstance(given, Targets) else self._search(given, progress)
                self._put(self._solved(name, targets))
            self._save()
        except BaseException:
            self._take(begin)
            for entry in before:
                self._put(entry)
            raise

    def _solved(self, name: str, targets: Targets) -> Entry:
        solution = self._editor.solve(self._model, targets, self._moments, self.config, history=self._history or None)
        return Entry(name, targets, solution.edit, solution.keys)

    def _put(self, entry: Entry) -> None:
        self._handles.append(entry.edit.apply_(self._model))
        self._entries.append(entry)
        self._remember(entry.keys)

    def _remember(self, keys: Keys) -> None:
        if self._editor.keeps_history:
            self._history = extended(self._history, keys)

    def _take(self, begin: int) -> None:
        """Take the edits from `begin` on out of the model."""
        if len(self._handles) <= begin:
            return
        while len(self._handles) > begin:
            self._handles[-1].undo()
            self._handles.pop()
        del self._entries[begin:]
        # Summed again, not subtracted: bit for bit the history that the edits which stay have alone.
        self._history = {}
        for entry in self._entries:
            self._remember(entry.keys)

    def _save(self) -> None:
        if self._folder is not None:
            weights = self._model.weight_hash()
            page = Page.of(self._editor.name, self.config, self.contexts, self._base, weights, self._moment_keys())
            self._folder.write(page, self._entries)

    def _discard(self) -> None:
        if self._folder is not None:
            self._folder.discard()

    def _moment_keys(self) -> dict[int, str]:
        layers = [layer for layer in self._editor.layers(self.config) if layer in self._moments]
        about = {layer: self._moments[layer].provenance for layer in layers}
        return {layer: "unknown" if known is None else known.key for layer, known in about.items()}

    def _names(self) -> list[str]:
        return [entry.name for entry in self._entries]

    def _check_new(self, name: str) -> None:
        self._check_open()
        if name in self._names():
            raise EditError(f"the ledger has an edit {name!r} already: give another name, or remove that one first")

    def _at(self, name: str) -> int:
        self._check_open()
        names = self._names()
        if name not in names:
            shown = ", ".join(names[:10]) or "none"
            raise EditError(f"the ledger has no edit {name!r}: it has {shown}{' …' if len(names) > 10 else ''}")
        return names.index(name)

    def _check_open(self) -> None:
        if self._closed:
            raise EditError("the ledger is closed: open it again")
