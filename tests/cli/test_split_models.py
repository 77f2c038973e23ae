"""The commands that locate on a model that is split between memory and disk: the numbers of one piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rome_engine.model.language_model import LanguageModel
from tests import split
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


@pytest.mark.parametrize("name", COMMANDS)
def test_a_map_that_is_no_json_is_refused(cli: Cli, name: str) -> None:
    refused(cli(*COMMANDS[name][0], "--device-map", "{"), "the device map '{' is no JSON object")


def _at(record: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        record = record[step]
    return np.array(record, dtype=np.float64)
