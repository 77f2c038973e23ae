"""What the commands share: results on stdout, all else on stderr, progress bars, and checks before any work."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from rome_engine.errors import PromptError, StorageError, TargetError

Tick = Callable[[int, int], None]

EVERY = 60.0
"""Seconds between two lines of progress where stderr is no terminal."""


def stdout() -> Console:
    """Where results go."""
    return Console(file=sys.stdout, soft_wrap=False)


def stderr() -> Console:
    """Where everything else goes."""
    return Console(file=sys.stderr)


def heading(text: str) -> None:
    """A line above a table; a table's own title would be broken at the table's width."""
    stdout().print(Text(text, style="bold"))


def complain(message: str, code: int, label: str = "error: ") -> int:
    """One line on stderr; gives the exit code back."""
    sys.stderr.write(f"{label}{' '.join(message.split())}\n")
    return code


def emit(record: dict[str, Any]) -> None:
    """The command's one JSON object, in ASCII: whatever reads it can decode it."""
    from rome_engine.files import finite

    sys.stdout.write(json.dumps(finite(record), allow_nan=False) + "\n")


class Lines:
    """Lines in the place of a progress bar, at most one in EVERY seconds: a log shows that the work goes on."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def tick(self, label: str) -> Tick:
        """Of one phase: what is done, of all, and about how many minutes this phase will take still."""
        first: tuple[float, int] | None = None

        def tick(done: int, total: int) -> None:
            nonlocal first
            now = time.monotonic()
            first = first or (now, done)
            if now - self._said < EVERY:
                return
            self._said = now
            began, before = first
            left = (now - began) / (done - before) * (total - done) if done > before else None
            more = "" if left is None else f", about {max(1, round(left / 60))} min left" if done < total else ""
            sys.stderr.write(f"{label}: {done} of {total}{more}\n")
            sys.stderr.flush()

        return tick


@contextmanager
def progress(label: str, lines: Lines | None = None) -> Iterator[Tick]:
    """A progress bar on stderr with the time left; where stderr is no terminal, lines now and then.

    lines: of the work that this is a phase of, so that many short phases say something too.
    """
    console = stderr()
    if not console.is_terminal:
        yield (lines or Lines()).tick(label)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # One step may take minutes: the time left is told from the steps of the last hour.
    options: dict[str, Any] = {"transient": True, "speed_estimate_period": 3600}
    with Progress(*columns, console=console, **options) as bar:
        task = bar.add_task(label, total=None)

        def tick(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tick


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each phase of the work, one after the other."""
    with ExitStack() as shown:
        bars: dict[str, Tick] = {}
        lines = Lines()

        def told(phase: str, done: int, total: int) -> None:
            if phase not in bars:
                shown.close()
                bars.clear()
                bars[phase] = shown.enter_context(progress(phase, lines))
            bars[phase](done, total)

        yield told


def check_text(prompt: str) -> None:
    """Say before any work that a prompt is none. Raises PromptError."""
    if not prompt.strip():
        raise PromptError("the prompt is empty: give the text that the model shall continue")


def check_answer(answer: str) -> None:
    """Say before any work that an answer is none. Raises TargetError."""
    if not answer.strip():
        raise TargetError("the answer is empty: give the text that the model might say next")


def check_writable(path: Path | None) -> None:
    """Say before any work that an output cannot be written. Raises StorageError."""
    if path is None:
        return
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; give a file's name")
    if not path.absolute().parent.is_dir():
        raise StorageError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")
    if not os.access(path.absolute().parent, os.W_OK):
        raise StorageError(f"cannot write {path}: you may not write in the folder {path.parent}; choose another one")


def check_apart(outputs: Iterable[Path | None], inputs: Iterable[Path | None] = (), model: str | None = None) -> None:
    """Say before any work that an output would destroy another one, what is read, or the model. Raises StorageError.

    model: as for `--model`.
    """
    read = {_real(path) for path in inputs if path is not None}
    places: list[Path] = []
    for path in outputs:
        if path is None:
            continue
        place = _real(path)
        if place in read:
            raise StorageError(f"cannot write {path}: this command reads it; give another name")
        if any(place.is_relative_to(other) or other.is_relative_to(place) for other in places):
            raise StorageError(f"cannot write {path}: another output of this command goes there; give another name")
        if place.is_relative_to(_model_folder(model)):
            raise StorageError(f"cannot write {path}: it lies in the model's folder; write it elsewhere")
        places.append(place)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _model_folder(model: str | None) -> Path:
    """Where the model lies, or would if its Hub id were a path."""
    from rome_engine.files import expanded
    from rome_engine.model import embedded

    is_embedded = model is None or model.lower() in embedded.ALIASES
    return _real(embedded.folder() if model is None or is_embedded else expanded(model))


def checked(
    paths: Sequence[Path] | None, suffixes: Sequence[str], model: str | None = None, *inputs: Path | None
) -> list[Path]:
    """The files to be written. Says before any work which of them cannot be, or must not: see `check_apart`.

    Raises StorageError.
    """
    from rome_engine.files import suffix_among

    for path in paths or []:
        check_writable(path)
        suffix_among(path, suffixes)
    check_apart(paths or [], inputs, model)
    return list(paths or [])


def check_free(folder: Path | None) -> None:
    """Say before any work that a folder to be made is in use. Raises StorageError."""
    if folder is None:
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StorageError(f"{folder} exists already: choose another folder, or remove it first")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise StorageError(f"cannot write {folder}: no folder can be made in {above}; choose another one")


def written(*paths: Path | str | None) -> None:
    """Tell on stderr where results lie, of those that were asked for."""
    for path in paths:
        if path is not None:
            stderr().print(f"written: {path}", markup=False, highlight=False, soft_wrap=True)


def probability(value: float) -> str:
    """A probability for people."""
    return f"{value:.3f}" if value >= 0.0005 or value == 0 else f"{value:.1e}"
