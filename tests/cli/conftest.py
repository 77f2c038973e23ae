"""Tiny models on disk, a cache of the tests' own, and the command line called in this process."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rome_engine.cli import loading, output
from rome_engine.cli.main import main
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.stats.texts import paragraphs

PROMPT = "You can find The Eiffel Tower in the city of"
SUBJECT = "The Eiffel Tower"


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1 and self.out.endswith("\n")
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Cli = Callable[..., Done]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs one command in this process; however slow the machine is, it says nothing of its progress."""
    monkeypatch.setattr(output, "EVERY", math.inf)

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny models "neox" and "other": one structure, two sets of weights."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("neox", 0), ("other", 1)):
        tiny.model("neox", seed=seed).save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def neox(models: Path) -> Path:
    return models / "neox"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file, enough for a tiny model's second moments."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n\n".join(paragraphs(60)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cache(_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, which all tests that ask for it share."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache))
    return _cache


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def edit_options(neox: Path, corpus: Path, cache: Path) -> list[object]:
    """Everything of an edit but its target; the second moments are collected by the first who asks."""
    return [
        *("edit", PROMPT, "--subject", SUBJECT, "--model", neox, "--layer", 1),
        *("--corpus", corpus, "--tokens", 1000),
    ]


def refused(done: Done, *said: str) -> None:
    """One line that says all of this, and nothing else anywhere."""
    assert done.code == 2, done
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.err
    for part in said:
        assert part in lines[0], lines[0]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is a failure: the mistake must be said before."""

    def loaded(*_: Any, **__: Any) -> LanguageModel:
        raise AssertionError("the model was loaded before the mistake was said")

    monkeypatch.setattr(LanguageModel, "load", loaded)
    monkeypatch.setattr(loading, "fetch", loaded)
