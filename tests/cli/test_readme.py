"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import rome_engine
from tests.cli.conftest import Cli

README = (Path(rome_engine.__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
LINES = [line.strip() for line in README.splitlines() if line.startswith("    rome-engine ")]
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_examples() -> None:
    assert len(LINES) >= 8 and len(BLOCKS) == 2


@pytest.mark.parametrize("line", LINES)
def test_every_command_line_is_understood(cli: Cli, line: str) -> None:
    arguments = shlex.split(line, comments=True)[1:]
    done = cli(*arguments, "--no-such-option")
    assert done.code == 2 and "No such option: --no-such-option" in done.err
    # Everything before the wrong option was read without a complaint, and nothing that is required is missing.
    assert cli(*arguments, "--help").code == 0


@pytest.mark.embedded
def test_the_python_example(
    cli: Cli, embedded_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(BLOCKS[0], "README.md", "exec"), names)
    effects, text = capsys.readouterr().out.split("]")
    numbers = [float(number) for number in effects.strip(" [\n").split()]
    assert len(numbers) == 10 and max(numbers) > 0.7 and 0.3 < numbers[2] < 0.5  # " of" at the end, and "iffel"
    assert text.strip().startswith("Rome")
    names["edit"].save("eiffel.safetensors")
    # The command line reads what it saved, on the same model.
    prompt = "The Eiffel Tower is located in the city of"
    (edited,) = cli("ask", prompt, "--edit", "eiffel.safetensors", "--top", 1, "--json").record["top"]
    assert edited["token"] == " Rome" and edited["probability"] > 0.95
    (plain,) = cli("ask", prompt, "--model", "embedded", "--top", 1, "--json").record["top"]
    assert plain["token"] == " Paris" and 0.68 < plain["probability"] < 0.72


@pytest.mark.embedded
def test_the_example_of_locating(embedded_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS[1], "README.md", "exec"), {"__name__": "readme"})
    *maps, words = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in maps] == 2 * [["mlp", "1"], ["mlp", "10"], ["attn", "1"], ["attn", "10"]]
    assert all(float(line.split()[-1]) > 1 for line in maps)  # both corruptions take the answer away
    assert words


def test_every_file_that_the_readme_links_to_is_there() -> None:
    root = Path(rome_engine.__file__).resolve().parent.parent
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (root / link).exists()] == []
