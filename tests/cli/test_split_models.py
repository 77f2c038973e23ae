"""The commands that locate, and bench, on a model that is split between memory and disk: the numbers of one piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from rome_engine.bench.run_file import read_run
from rome_engine.model.language_model import LanguageModel
from tests import split
from tests.bench.test_locate import known
from tests.cli.conftest import PROMPT, SUBJECT, Cli, refused

MAP = json.dumps(split.device_map("llama"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split.saved("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def offloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Of every model that is loaded meanwhile: whether a block of it is on the disk."""
    found: list[bool] = []
    load = LanguageModel.load

    def watched(*given: Any, **options: Any) -> LanguageModel:
        model = load(*given, **options)
        found.append(any(model.is_offloaded(layer) for layer in range(model.n_layers)))
        return model

    monkeypatch.setattr(LanguageModel, "load", watched)
    yield found


FACT = {
    "prompt": "You can find {} in",
    "subject": SUBJECT,
    "target_true": "Paris",
    "target_new": "Rome",
    "paraphrases": ["To visit {}, you have to travel to"],
    "neighbourhood": ["The capital of Japan is"],
}
COMMANDS = {
    "trace": (("trace", PROMPT, "-s", SUBJECT, "--kind", "mlp", "--samples", "2"), ("scores",)),
    "screen": (
        ("screen", PROMPT, "-s", SUBJECT, "--samples", "2", "--kind", "hidden", "--top", "3", "--random", "0"),
        ("maps", 0, "approximate"),
    ),
    "attribute": (("attribute", PROMPT), ("total",)),
    "activations": (("activations", PROMPT, "-n", "blocks.1.mlp"), ("activations", 0, "norm")),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_split_model_gives_the_numbers_of_one_piece(cli: Cli, llama: Path, offloaded: list[bool], name: str) -> None:
    command, path = COMMANDS[name]
    plain = cli(*command, "-m", llama, "--json").record
    parted = cli(*command, "-m", llama, "--device-map", MAP, "--json").record
    assert offloaded == [False, True]
    one, other = (_at(record, path) for record in (plain, parted))
    assert np.abs(one).max() > 1e-6  # there is something to agree on
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


def test_statistics_of_a_split_model_are_those_of_one_piece(
    cli: Cli, llama: Path, corpus: Path, cache: Path, here: Path, offloaded: list[bool]
) -> None:
    command = ("stats", "-m", llama, "--corpus", corpus, "--tokens", 500, "--layers", "1,2", "--shard", "1/1", "--out")
    assert cli(*command, "plain.safetensors").code == 0
    done = cli(*command, "parts.safetensors", "--device-map", MAP)
    assert done.code == 0 and offloaded == [False, True], done.err
    one, other = (safetensors.numpy.load_file(f"{name}.safetensors") for name in ("plain", "parts"))
    assert one.keys() == other.keys() and len(one) >= 2
    for name, values in one.items():
        np.testing.assert_allclose(other[name], values, rtol=1e-4, atol=1e-5)


def test_a_split_model_is_located_and_edited_like_one_in_one_piece(
    cli: Cli, llama: Path, corpus: Path, cache: Path, here: Path, offloaded: list[bool], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    facts = known(LanguageModel.load(str(llama)), 4)
    (here / "facts.json").write_text(json.dumps([fact.to_dict() for fact in facts]), encoding="utf-8")
    command = (
        *("locate-edit", "facts.json", "-m", llama, "--layers", "2", "--window", 2, "--samples", 2, "--json"),
        *("--threshold", -1, "--corpus", corpus, "--tokens", 1000, "--score", "em"),
    )
    last = {path: place for path, place in split.device_map("llama").items() if not path.endswith(("0", "1", "2"))}
    blocks = {f"model.layers.{layer}": "cpu" for layer in range(3)}
    plain = cli(*command).record
    monkeypatch.setattr("rome_engine.edit.value_store.cache_home", lambda: tmp_path / "others")  # nothing is found
    parted = cli(*command, "--device-map", json.dumps(last | blocks)).record
    assert offloaded == [False, False, True]  # the first is the one above
    refused(cli(*command, "--device-map", MAP), "the weight of layer 1 is offloaded")
    some = [FACT | {"subject": subject} for subject in (SUBJECT, "The Louvre", "The Colosseum", "the Big Ben")]
    (here / "four.json").write_text(json.dumps(some), encoding="utf-8")
    tune = ("tune", "-m", llama, "--layers", "2", "--corpus", corpus, "--tokens", 1000, "--facts", "four.json")
    tune = (*tune, "--tuning", 2, "--held-out", 2, "--device-map", MAP)
    refused(cli(*tune), "the weight of layer", "is offloaded")
    for one, other in zip(plain["controls"], parted["controls"], strict=True):
        for name in ("em", "ns", "free"):
            assert other["scores"][name]["value"] == pytest.approx(one["scores"][name]["value"], abs=1e-4)


@pytest.fixture
def bench(llama: Path, corpus: Path, cache: Path, here: Path) -> tuple[object, ...]:
    (here / "facts.json").write_text(json.dumps([FACT, FACT | {"subject": "The Louvre"}]), encoding="utf-8")
    return ("bench", "--data", "facts.json", "-m", llama, "--corpus", corpus, "--tokens", 1000, "--batch", 1)


@pytest.mark.parametrize("protocol", ["single", "sequential"])
def test_a_split_model_is_edited_and_scored_like_one_in_one_piece(
    cli: Cli, bench: tuple[object, ...], offloaded: list[bool], protocol: str, tmp_path: Path, cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    given = (*bench, "--layer", 2, "--protocol", protocol, "--run")
    assert cli(*given, "plain.sqlite").code == 0
    # Nothing that the plain model answered, or that was searched on it, is taken.
    (cache / "rome_engine" / "answers.sqlite").unlink()
    monkeypatch.setattr("rome_engine.edit.value_store.cache_home", lambda: tmp_path / "others")
    done = cli(*given, "parts.sqlite", "--device-map", MAP)
    assert done.code == 0 and offloaded == [False, True], done.err
    plain, parted = (read_run(f"{name}.sqlite") for name in ("plain", "parts"))
    assert len(plain.rows) == (4 if protocol == "single" else 5)
    assert plain.environment["weights"] == parted.environment["weights"]
    for one, other in zip(plain.rows, parted.rows, strict=True):
        assert one.status == other.status == "done"
        assert (one.id, one.checkpoint, one.texts) == (other.id, other.checkpoint, other.texts)
        assert one.figures == pytest.approx(other.figures, rel=1e-4, abs=1e-5)
    assert plain.at(0)[0].figures != plain.at(-1)[0].figures


def test_a_layer_on_the_disk_cannot_be_edited(cli: Cli, bench: tuple[object, ...], here: Path) -> None:
    for method in ("r-rome", "memit", "ft-l"):  # one that reads second moments of it, of several, and of none
        done = cli(*bench, "--method", method, "--layer", 1, "--run", "r.sqlite", "--device-map", MAP)
        refused(done, "the weight of layer 1 is offloaded", "load the model without offloading")
    assert not (here / "r.sqlite").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_map_that_is_no_json_is_refused(cli: Cli, name: str) -> None:
    refused(cli(*COMMANDS[name][0], "--device-map", "{"), "the device map '{' is no JSON object")


def _at(record: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        record = record[step]
    return np.array(record, dtype=np.float64)
