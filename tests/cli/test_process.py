"""What only a process of its own can show: exit codes, Ctrl-C, pipes, a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import PROMPT, SUBJECT, Cli

MAIN = "from rome_engine.cli.main import run\nrun()\n"
# Sends Ctrl-C to itself at the tick of a progress bar that is named, where nothing can be too early or too late.
INTERRUPTED = """
import os, signal, sys
from contextlib import contextmanager
from rome_engine.cli import output
wanted = sys.argv.pop(1)
@contextmanager
def progress(label, *_):
    seen = 0
    def tick(done, total):
        nonlocal seen
        seen += 1
        if label == wanted and seen == 2:
            os.kill(os.getpid(), signal.SIGINT)
    yield tick
output.progress = progress
"""
LIMITED = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"


def command(*arguments: object, before: str = "") -> list[str]:
    return [sys.executable, "-c", before + MAIN, *(str(argument) for argument in arguments)]


def run(*arguments: object, before: str = "", **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, before=before),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **options},
    )


def test_exit_codes_and_streams(neox: Path, here: Path) -> None:
    done = run("ask", PROMPT, "-m", neox, "--json", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.count("\n") == 1 and json.loads(done.stdout)["prompt"] == PROMPT
    done = run("ask", PROMPT, "-m", "none/at/all")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: there is no folder 'none/at/all'")


def test_a_terminal_without_our_letters(neox: Path) -> None:
    done = run("trace", PROMPT, "-s", SUBJECT, "-m", neox, "--samples", 2, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stderr == "" and done.stdout.isascii() and "Tower*" in done.stdout


def test_warnings_go_to_stderr(edit_options: list[object], here: Path) -> None:
    done = run(*edit_options, "-t", "Rome", "--merged", "merged", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1 and json.loads(done.stdout)["merged"] == "merged"
    assert done.stderr.startswith("warning: the update of layer 1 is large")
    assert "Traceback" not in done.stderr and "shards" not in done.stderr


@pytest.mark.parametrize("what", ["trace", "edit", "stats"])
def test_ctrl_c_in_the_middle(
    what: str, neox: Path, corpus: Path, edit_options: list[object], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "trace.html").write_text("before")
    (here / "edit.safetensors").write_text("before")
    if what == "trace":
        label, arguments = "tracing", ["trace", PROMPT, "-s", SUBJECT, "-m", neox, "--out", "trace.html", "--json"]
        arguments += ["--engine", "reference"]
    elif what == "edit":
        monkeypatch.setenv("XDG_CACHE_HOME", str(here.parent / "cache"))  # a value that is kept leaves nothing to stop
        label, arguments = "editing", [*edit_options, "-t", "Rome", "--save", "edit.safetensors", "--merged", "merged"]
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
        label, arguments = "collecting second moments", ["stats", "-m", neox, "--corpus", corpus, "--layers", "0-3"]
    weights = (neox / "model.safetensors").read_bytes()
    done = run(label, *arguments, before=INTERRUPTED)
    assert done.returncode == 1 and done.stdout == "", done
    assert done.stderr == "interrupted: the model and the files are as before\n"
    left = sorted(path.name for path in here.rglob("*") if path.is_file())
    assert left == ["edit.safetensors", "trace.html"]
    assert all((here / name).read_text() == "before" for name in left)
    assert (neox / "model.safetensors").read_bytes() == weights


def test_ctrl_c_whenever(neox: Path, here: Path) -> None:
    for wait in (0.6, 1.5, 3.0):
        arguments = ("trace", PROMPT, "-s", SUBJECT, "-m", neox, "--samples", 500, "--engine", "reference")
        child = subprocess.Popen(
            command(*arguments, "--out", "trace.json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(wait)
        child.send_signal(signal.SIGINT)
        out, errors = child.communicate(timeout=60)
        assert (child.returncode, out, errors) == (1, "", "interrupted: the model and the files are as before\n"), wait
        assert not list(here.iterdir())


def test_whoever_reads_may_leave(neox: Path) -> None:
    for arguments in (["--help"], ["trace", "--help"], ["ask", PROMPT, "-m", str(neox), "--top", "500"]):
        child = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait(60) in (0, 1)


@pytest.mark.parametrize("option", ["--save", "--merged", "--out"])
def test_a_full_disk(option: str, cli: Cli, neox: Path, edit_options: list[object], here: Path) -> None:
    if option == "--out":
        done = run("trace", PROMPT, "-s", SUBJECT, "-m", neox, "--out", "t.html", "--json", before=LIMITED)
        name = "t.html"
    else:
        assert cli(*edit_options, "-t", "Rome").code == 0  # the second moments are there now
        name = "written"
        done = run(*edit_options, "-t", "Rome", option, name, "--json", before=LIMITED)
    assert done.returncode == 2 and done.stdout == "", done
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert line.startswith(f"error: cannot write {name}: ") and "has room" in line
    assert not list(here.iterdir())


def test_a_full_disk_under_the_cache(neox: Path, corpus: Path, here: Path) -> None:
    options = ("stats", "-m", neox, "--corpus", corpus, "--tokens", 500, "--layers", 2)
    done = run(*options, before=LIMITED, XDG_CACHE_HOME=str(here))
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: cannot write ") and "XDG_CACHE_HOME" in done.stderr
    assert not [path for path in here.rglob("*") if path.is_file()]
