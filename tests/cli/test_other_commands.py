"""`rome-engine stats`, `model` and the help of all commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import rome_engine
from rome_engine.bench.datasets.sources import SOURCES
from rome_engine.cli import editing, options
from rome_engine.cli.main import app
from rome_engine.cli.stats import parse_layers
from rome_engine.edit.methods import editors
from rome_engine.errors import StatisticsError
from rome_engine.model import embedded
from rome_engine.stats.provenance import DEFAULT_TOKENS
from tests import tiny
from tests.cli.conftest import Cli

COMMANDS = (
    ("trace",),
    ("edit",),
    ("ask",),
    ("stats",),
    ("model",),
    ("model", "inspect"),
    ("model", "fetch"),
    ("demo",),
)


def test_stats_collect_and_show(
    cli: Cli, neox: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # other tests' moments are of more tokens
    common = ("stats", "--model", neox, "--layers", "0,2-3")
    collected = cli(*common, "--corpus", corpus, "--tokens", 500, "--length", 32, "--seed", 4, "--json").record
    rows = collected["moments"]
    assert [row["layer"] for row in rows] == [0, 2, 3] and collected["model"] == str(neox)
    assert all(0 < row["count"] <= 500 and row["size"] == tiny.D_MLP and row["corpus"] == "text" for row in rows)
    assert {row["provenance"]["seed"] for row in rows} == {4} and {row["provenance"]["length"] for row in rows} == {32}
    assert cli(*common, "--json").record["moments"] == rows
    shown = cli(*common)
    assert shown.code == 0 and f"{rows[0]['count']:,}" in shown.out


def test_a_corpus_of_several_files(cli: Cli, neox: Path, corpus: Path, cache: Path, here: Path) -> None:
    (here / "more.txt").write_text("The Louvre is in Paris.\n")
    files = ("--corpus", corpus, "--corpus", "more.txt")
    (row,) = cli("stats", "-m", neox, *files, "--tokens", 300, "--layers", 3, "--json").record["moments"]
    assert row["corpus"] == "text + more"


def test_the_options_default_is_the_librarys() -> None:
    assert options.TOKENS == DEFAULT_TOKENS


def test_layers_are_numbers_and_ranges() -> None:
    assert parse_layers("8, 12") == [8, 12] and parse_layers("4-6,5") == [4, 5, 6]
    for wrong in ("", "x", "-1", "3-", "6-4", "1,,2", "1.5"):
        with pytest.raises(StatisticsError, match="such as 8,12 or 4-8"):
            parse_layers(wrong)


def test_inspect_shows_the_map_and_the_proofs(cli: Cli, neox: Path) -> None:
    record = cli("model", "inspect", neox, "--json").record
    assert record["architecture"]["family"] == "gpt_neox" and record["architecture"]["n_layers"] == tiny.LAYERS
    assert record["proofs"] and all(proof["holds"] for proof in record["proofs"])
    assert len(record["weights"]) == 64 and record["dtype"] == "float32"
    shown = cli("model", "inspect", neox)
    assert shown.code == 0 and "GPTNeoXForCausalLM" in shown.out and "down projection" in shown.out
    assert "relative error" in shown.out and max(map(len, shown.out.splitlines())) <= 80


@pytest.mark.embedded
def test_fetch_says_where_the_model_is(cli: Cli, embedded_folder: Path) -> None:
    assert cli("model", "fetch", "--json").record == {"model": embedded.NAME, "folder": str(embedded_folder)}
    assert str(embedded_folder) in cli("model", "fetch").out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(cli: Cli, command: tuple[str, ...]) -> None:
    done = cli(*command, "--help")
    assert done.code == 0 and done.err == "" and "Usage: rome-engine " + command[0] in done.out
    assert "bool" not in done.out and "list[" not in done.out


def test_every_command_speaks_json() -> None:
    commands = list(_leaves(typer.main.get_command(app), ()))
    assert len(commands) > 25
    assert [name for name, command in commands if "--json" not in _options(command)] == []


def test_help_names_all_methods_and_data_sets(cli: Cli) -> None:
    named = set(re.findall(r"[a-z-]+", editing.METHODS))
    assert set(editors()) <= named
    for command in ("edit", "edit-facts", "bench", "tune", "locate-edit"):
        shown = _words(cli(command, "--help").out)
        assert editing.MANY_FACTS in shown and editing.TRAINED in shown
    shown = _words(cli("bench", "--help").out)
    assert [name for name, source in SOURCES.items() if source.schema and not re.search(rf"\b{name}\b", shown)] == []


def _leaves(command: Any, name: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", {})
    if not below or getattr(command, "invoke_without_command", False):
        yield name, command
    for part, one in below.items():
        yield from _leaves(one, (*name, part))


def _options(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def _words(shown: str) -> str:
    """Help as one line, out of its box."""
    return " ".join(shown.replace("│", " ").split())


def test_no_command_shows_the_help(cli: Cli) -> None:
    done = cli()
    assert done.code == 2 and "Usage" in done.out and all(command[0] in done.out for command in COMMANDS)
    assert cli("--version").out == f"rome-engine {rome_engine.__version__}\n"


def test_help_and_mistyped_options_do_not_wait_for_torch() -> None:
    code = (
        "import sys; from rome_engine.cli.main import main\n"
        "codes = [main(['--help']), main(['edit', '--help']), main(['trace', 'x', '--nope'])]\n"
        "assert codes == [0, 0, 2], codes\n"
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env={**os.environ})
