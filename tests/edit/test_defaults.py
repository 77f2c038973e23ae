"""The published settings as METHODS states them, found by structure; others by depth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rome_engine.edit import editor
from rome_engine.edit.defaults import preset_for
from rome_engine.edit.value import ValueConfig
from rome_engine.model.language_model import LanguageModel
from tests import tiny

STRUCTURES = {
    "gpt2-medium": ("gpt2", 24, 1024, 4096),
    "gpt2-xl": ("gpt2", 48, 1600, 6400),
    "gpt-j": ("gptj", 28, 4096, 16384),
    "llama-2": ("llama", 32, 4096, 11008),
    "llama-3": ("llama", 32, 4096, 14336),
    "qwen": ("qwen2", 28, 3584, 18944),
    "mistral": ("mistral", 32, 4096, 14336),
    "smollm2": ("llama", 30, 576, 1536),
}


def like(name: str) -> LanguageModel:
    """A tiny model that says it has this structure."""
    model = tiny.language_model("gpt2")
    family, layers, d_model, d_mlp = STRUCTURES[name]
    model.architecture = replace(
        model.architecture,
        family=family,
        n_layers=layers,
        d_model=d_model,
        d_mlp=d_mlp,
    )
    return model


@pytest.mark.parametrize(
    ("name", "layer", "value"),
    [
        ("gpt2-medium", 8, (20, 0.5, 0.5, 3.0)),
        ("gpt2-xl", 17, (20, 0.5, 0.5, 4.0)),
        ("gpt-j", 5, (20, 0.5, 0.5, 4.0)),
        ("llama-2", 5, (25, 0.5, 1e-3, 4.0)),
        ("llama-3", 5, (25, 0.5, 1e-3, 4.0)),
        ("qwen", 5, (25, 0.5, 1e-3, 4.0)),
        ("mistral", 5, (25, 0.5, 1e-3, 4.0)),
        ("smollm2", 6, (10, 2.0, 0.5, 2.0)),
    ],
)
def test_rome(name: str, layer: int, value: tuple[Any, ...]) -> None:
    for method in ("rome", "r-rome"):
        config = editor(method).default(like(name))
        assert (config.layer, config.value) == (layer, ValueConfig(*value))
        assert (config.bare, len(config.lengths)) == ((0.7, 10) if name == "smollm2" else (None, 20))


@pytest.mark.parametrize(
    ("name", "layers", "value", "weight"),
    [
        ("gpt2-xl", range(13, 18), (20, 0.5, 0.5, 0.75), 20000),
        ("gpt-j", range(3, 9), (25, 0.5, 0.5, 0.75), 15000),
        ("llama-2", range(4, 9), (25, 0.5, 1e-3, 4.0), 15000),
        ("llama-3", range(4, 9), (25, 0.1, 0.5, 0.75), 15000),
        ("qwen", range(4, 9), (25, 0.1, 1e-3, 0.75), 15000),
        ("mistral", range(4, 9), (25, 0.5, 1e-3, 4.0), 15000),
        ("smollm2", range(2, 7), (10, 2.4, 0.1, 1.0), 1500),
    ],
)
def test_memit_and_what_alphaedit_shares_with_it(
    name: str, layers: range, value: tuple[Any, ...], weight: float
) -> None:
    model = like(name)
    config, alphaedit = editor("memit").default(model), editor("alphaedit").default(model)
    assert (config.layers, config.value, config.weight) == (tuple(layers), ValueConfig(*value), weight)
    assert (alphaedit.layers, alphaedit.value, alphaedit.threshold) == (config.layers, config.value, 0.02)
    assert alphaedit.l2 == (1.0 if name in ("qwen", "smollm2") else 10.0)


def test_pmet_and_emmet() -> None:
    config = editor("pmet").default(like("gpt-j"))
    assert (config.layers, config.weight) == (tuple(range(3, 9)), 6000)
    assert config.value == ValueConfig(30, 0.2, 0.5, 0.75, kl=1.0)
    config = editor("pmet").default(like("llama-2"))
    assert (config.value.steps, config.value.clamp, config.weight) == (20, 1.0, 6000)
    for name, scale in (("gpt2-xl", 1000.0), ("gpt-j", 1.0), ("llama-2", 1.0)):
        config = editor("emmet").default(like(name))
        assert (config.scale, config.ridge) == (scale, 0.1)
        assert config.layer == editor("rome").default(like(name)).layer


@pytest.mark.parametrize(("n_layers", "last"), [(2, 0), (4, 1), (12, 3), (64, 19)])
def test_a_model_nobody_published_settings_for_gets_layers_by_its_depth(n_layers: int, last: int) -> None:
    model = tiny.language_model("llama")
    model.architecture = replace(model.architecture, n_layers=n_layers)
    assert preset_for(model, "rome").layers == preset_for(model, "emmet").layers == (last,)
    for method in ("memit", "pmet", "alphaedit"):
        assert preset_for(model, method).layers == tuple(range(max(0, last - 4), last + 1))
