"""`rome-engine lens`, `attribute` and `activations`: fields, options, formats, and every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from rome_engine.model import run_with_cache
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.cli.conftest import PROMPT, Cli, refused

COMMANDS = ("lens", "attribute", "activations")


BEFORE_LOADING = [
    *(((command, " "), ("the prompt is empty", "give the text")) for command in COMMANDS),
    *(
        ((command, PROMPT, "--out", "none/x.json"), ("the folder none does not exist", "make it"))
        for command in COMMANDS
    ),
    *(((command, PROMPT, "--out", "."), ("it is a folder",)) for command in COMMANDS),
    *(((command, PROMPT, "--out", "x"), ("no suffix",)) for command in COMMANDS),
    *(((command, PROMPT, "--bos", "auto"), ("--bos", "'always', 'never'")) for command in COMMANDS),
    *(((command, PROMPT, "--device", "toaster"), ("the device 'toaster' cannot be used",)) for command in COMMANDS),
    (("lens", PROMPT, "--out", "x.png"), ("'.png'", ".html, .json, .csv, .parquet")),
    (("attribute", PROMPT, "--out", "x.gif"), ("'.gif'", ".html, .json, .csv, .parquet, .png, .svg, .pdf")),
    (("activations", PROMPT, "--out", "x.pt"), ("'.pt'", ".safetensors")),
    (("lens", PROMPT, "-a", "Paris", "-a", " "), ("the answer is empty", "give the text")),
    (("lens", PROMPT, "--top", "0"), ("--top", "greater than or equal to 1")),
    (("lens", PROMPT, "--token", "last"), ("--token", "integer")),
    (("attribute", PROMPT, "--answer", ""), ("the answer is empty",)),
    (("attribute", PROMPT, "--foil", ""), ("the answer is empty",)),
    (("attribute", PROMPT, "-a", "Rome", "--foil", " Rome"), ("the foil ' Rome' is the answer", "another one")),
    (("activations", PROMPT, "--name", ""), ("the name is empty", "blocks.*.mlp")),
    (("attribute", PROMPT, "--kind", "mlp"), ("No such option",)),
]


@pytest.mark.parametrize(("command", "said"), BEFORE_LOADING, ids=lambda value: " ".join(value)[:60])
def test_said_before_any_work(
    cli: Cli, here: Path, no_model: None, command: tuple[str, ...], said: tuple[str, ...]
) -> None:
    refused(cli(*command), *said)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("lens", PROMPT, "--token", "99"), ("there is no token 99", "0 to")),
        (("lens", PROMPT, "-a", "</s>"), ("tokenises to nothing that this model could say",)),
        (("attribute", PROMPT, "-a", "R", "--foil", "R R"), ("begins with the same token",)),
        (("activations", PROMPT, "-n", "blocks.9.mlp"), ("'blocks.9.mlp'", "L from 0 to 3")),
        (("activations", PROMPT, "-n", "blocks.*.mid"), ("'blocks.*.mid'", "hidden")),
        (("lens", "word " * 200), ("the model's context holds 128", "shorten it")),
    ],
)
def test_said_of_this_model(cli: Cli, neox: Path, here: Path, command: tuple[str, ...], said: tuple[str, ...]) -> None:
    refused(cli(*command, "--model", neox), *said)
    assert not list(here.iterdir())


def test_the_lens_as_json(cli: Cli, neox: Path) -> None:
    record = cli(
        "lens", PROMPT, "-a", "Paris", "-a", "Rome", "--top", 3, "--bos", "always", "-m", neox, "--json"
    ).record

    assert record["layers"] == [-1, 0, 1, 2, 3]
    assert record["tokens"][0] == "<s>" and record["provenance"]["bos_added"]
    assert [answer["answer"] for answer in record["answers"]] == ["Paris", "Rome"]
    assert len(record["top_ids"][0][0]) == 3
    assert record["provenance"]["weights"] and record["provenance"]["dtype"] == "float32"


def test_the_lens_agrees_with_ask(cli: Cli, neox: Path) -> None:
    said = cli("ask", PROMPT, "-m", neox, "--json").record["top"]
    record = cli("lens", PROMPT, "-m", neox, "--json").record

    assert record["top_ids"][-1][-1] == [one["id"] for one in said]
    assert record["top_probabilities"][-1][-1] == pytest.approx([one["probability"] for one in said], rel=1e-4)


@pytest.mark.parametrize("options", [(), ("--token", 0), ("--token", -1)])
def test_the_lens_in_the_terminal(cli: Cli, neox: Path, options: tuple[object, ...]) -> None:
    done = cli("lens", PROMPT, "-m", neox, *options)

    assert done.code == 0
    assert "layer 3" in done.out and "rank" in done.out


def test_the_attribution_as_json(cli: Cli, neox: Path) -> None:
    options = ("attribute", PROMPT, "-m", neox, "--answer", "Paris", "--foil", "Rome", "--json")
    plain, heads = cli(*options).record, cli(*options, "--heads").record

    assert plain["logit"] == pytest.approx(plain["total"], rel=1e-4, abs=1e-4)
    assert heads["total"] == pytest.approx(plain["total"], rel=1e-4, abs=1e-4)
    assert sum(row["component"] == "head" for row in heads["contributions"]) == tiny.LAYERS * tiny.HEADS
    assert plain["foil"] is not None and plain["provenance"]["weights"]


def test_the_attribution_in_the_terminal(cli: Cli, neox: Path) -> None:
    done = cli("attribute", PROMPT, "-m", neox, "--top", 3)

    assert done.code == 0
    assert "8 others" in done.out and "sum" in done.out  # of 1 + 4 · 2 + 2


def test_activations_are_listed(cli: Cli, neox: Path) -> None:
    done = cli("activations", PROMPT, "-m", neox, "-n", "blocks.*.mlp", "-n", "final", "--json")

    assert [row["name"] for row in done.record["activations"]] == [*(f"blocks.{one}.mlp" for one in range(4)), "final"]
    assert all(row["norm"] > 0 and row["shape"][-1] == tiny.D_MODEL for row in done.record["activations"])
    assert "blocks.2.heads" in cli("activations", PROMPT, "-m", neox).out


def test_activations_are_saved_as_they_are(cli: Cli, neox: Path, here: Path) -> None:
    done = cli("activations", PROMPT, "-m", neox, "--out", "a.safetensors")
    found = run_with_cache(LanguageModel.load(str(neox)), PROMPT)

    assert done.code == 0 and "written: a.safetensors" in done.err
    with safe_open(here / "a.safetensors", "pt") as file:
        assert set(file.keys()) == set(found)
        assert all(bool((file.get_tensor(name) == tensor).all()) for name, tensor in found.items())
        record = json.loads(file.metadata()["rome_engine"])
    assert record["prompt"] == PROMPT and record["provenance"]["weights"]


@pytest.mark.parametrize("command", ["lens", "attribute"])
@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_results_are_written(cli: Cli, neox: Path, here: Path, command: str, suffix: str) -> None:
    done = cli(command, PROMPT, "-m", neox, "--out", f"x{suffix}", "--json")

    assert done.record["prompt"] == PROMPT
    content = (here / f"x{suffix}").read_text(encoding="utf-8")
    assert json.loads(content) == done.record if suffix == ".json" else content.startswith(("layer,", "component,"))


def test_the_lens_is_written_as_a_page(cli: Cli, neox: Path, here: Path) -> None:
    assert cli("lens", PROMPT, "-m", neox, "--out", "x.html").code == 0
    assert "Logit lens" in (here / "x.html").read_text(encoding="utf-8")
