"""What the commands share: results on stdout, all else on stderr; progress bars; options that many commands have."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rome_engine.errors import StorageError

Tick = Callable[[int, int], None]

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Hub id or local folder; the embedded model where left out.", metavar="M"),
]
Dtype = Annotated[
    str, typer.Option(help="Type to load the weights in: auto (as the checkpoint says), float32, bfloat16, float16.")
]
Device = Annotated[str | None, typer.Option(help="Where to put the model, such as cuda or cpu.", metavar="D")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub model.", metavar="R")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that the model's authors ship. Only if you trust them.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]


def stdout() -> Console:
    """Where results go."""
    return Console(file=sys.stdout, soft_wrap=False)


def stderr() -> Console:
    """Where everything else goes."""
    return Console(file=sys.stderr)


def complain(message: str, code: int, label: str = "error: ") -> int:
    """One line on stderr; gives the exit code back."""
    sys.stderr.write(f"{label}{' '.join(message.split())}\n")
    return code


def emit(record: dict[str, Any]) -> None:
    """The command's one JSON object."""
    sys.stdout.write(json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """JSON knows no NaN or infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


@contextmanager
def progress(label: str) -> Iterator[Tick]:
    """A progress bar on stderr with the time left; it is not drawn where stderr is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = stderr()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None)

        def tick(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tick


def check_writable(path: Path | None) -> None:
    """Say before any work that an output's folder is missing. Raises StorageError."""
    if path is None:
        return
    if path.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; give a file's name")
    if not path.absolute().parent.is_dir():
        raise StorageError(f"cannot write {path}: the folder {path.parent} does not exist; make it first")


def probability(value: float) -> str:
    """A probability for people."""
    return f"{value:.3f}" if value >= 0.0005 or value == 0 else f"{value:.1e}"
