"""The settings that methods have where nobody says: published ones as a table, for other models by their depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rome_engine.edit.value import ValueConfig
from rome_engine.model.architecture import Architecture
from rome_engine.model.language_model import LanguageModel

DEPTH = 0.3
"""Where the (last) edited layer lies in an unknown model; the published ones lie between 0.15 and 0.37 of the depth."""

SPREAD = 5
"""Over how many layers a change is spread in an unknown model, the last one counted."""


@dataclass(frozen=True)
class Preset:
    """One method's settings for one model.

    layers: the edited ones; methods that edit a single one take the last. value: of the value search. others: what else
    the method's configuration has, by the names of its fields.
    """

    layers: tuple[int, ...]
    value: ValueConfig = field(default_factory=ValueConfig)
    others: Mapping[str, Any] = field(default_factory=dict)


def _memit(first: int, last: int, value: ValueConfig, weight: float = 15000.0) -> Preset:
    return Preset(tuple(range(first, last + 1)), value, {"weight": weight})


_Structure = tuple[str, int, int, int]

# By structure, not by name: a model keeps its settings wherever its folder lies. (family, layers, d_model, d_mlp)
_SMOLLM2: _Structure = ("llama", 30, 576, 1536)  # the embedded model
_GPT2_MEDIUM: _Structure = ("gpt2", 24, 1024, 4096)
_GPT2_LARGE: _Structure = ("gpt2", 36, 1280, 5120)
_GPT2_XL: _Structure = ("gpt2", 48, 1600, 6400)
_GPTJ: _Structure = ("gptj", 28, 4096, 16384)
_LLAMA2: _Structure = ("llama", 32, 4096, 11008)
_LLAMA3: _Structure = ("llama", 32, 4096, 14336)
_QWEN: _Structure = ("qwen2", 28, 3584, 18944)
_MISTRAL: _Structure = ("mistral", 32, 4096, 14336)

_LOOSE = ValueConfig(steps=25, decay=1e-3)
_TIGHT = ValueConfig(steps=25, clamp=0.75)

# The embedded model's were measured (docs/performance.md): a plain mean key misses prompts that the subject begins. The
# others were published with ROME (arXiv 2202.05262) and with AlphaEdit (arXiv 2410.02355).
_ROME: dict[_Structure, Preset] = {
    _SMOLLM2: Preset(
        (6,), ValueConfig(steps=10, learning_rate=2.0, clamp=2.0), {"bare": 0.7, "lengths": (5,) * 5 + (10,) * 5}
    ),
    _GPT2_MEDIUM: Preset((8,), ValueConfig(clamp=3.0)),
    _GPT2_LARGE: Preset((12,)),
    _GPT2_XL: Preset((17,)),
    _GPTJ: Preset((5,)),
    _LLAMA2: Preset((5,), _LOOSE),
    _LLAMA3: Preset((5,), _LOOSE),
    _QWEN: Preset((5,), _LOOSE),
    _MISTRAL: Preset((5,), _LOOSE),
}

# Published with MEMIT (arXiv 2210.07229) and with AlphaEdit; the embedded model's were measured (docs/performance.md):
# the published λ leaves it unchanged, and lower layers disturb neighbours less.
_MEMIT: dict[_Structure, Preset] = {
    _SMOLLM2: _memit(2, 6, ValueConfig(steps=10, learning_rate=2.4, decay=0.1, clamp=1.0), 1500.0),
    _GPT2_XL: _memit(13, 17, replace(_TIGHT, steps=20), 20000.0),
    _GPTJ: _memit(3, 8, _TIGHT),
    _LLAMA2: _memit(4, 8, _LOOSE),
    _LLAMA3: _memit(4, 8, replace(_TIGHT, learning_rate=0.1)),
    _QWEN: _memit(4, 8, replace(_TIGHT, learning_rate=0.1, decay=1e-3)),
    _MISTRAL: _memit(4, 8, _LOOSE),
}

# Published with PMET (arXiv 2308.08742); what it does not say is MEMIT's.
_PMET: dict[_Structure, Preset] = {
    _GPTJ: _memit(3, 8, replace(_TIGHT, steps=30, learning_rate=0.2, kl=1.0), 6000.0),
    _LLAMA2: _memit(4, 8, replace(_LOOSE, steps=20, clamp=1.0), 6000.0),
}

_EMMET_SCALE: dict[_Structure, float] = {_GPT2_XL: 1000.0}  # of C, arXiv 2403.14236; 1 where none was published
_ALPHAEDIT_L2: dict[_Structure, float] = {_QWEN: 1.0, _SMOLLM2: 1.0}  # arXiv 2410.02355, and measured; 10 elsewhere


def preset_for(model: LanguageModel, method: str) -> Preset:
    """The settings of a method ("rome", "emmet", "memit", "pmet", "alphaedit") for a model.

    Published or measured for models of this structure, else by depth. This is the one place that decides it.
    """
    architecture = model.architecture
    structure = (architecture.family, architecture.n_layers, architecture.d_model, architecture.d_mlp)
    rome = _ROME.get(structure) or Preset((_by_depth(architecture),))
    memit = _MEMIT.get(structure) or _spread_by_depth(architecture)
    return {
        "rome": rome,
        "emmet": replace(rome, others={**rome.others, "scale": _EMMET_SCALE.get(structure, 1.0)}),
        "memit": memit,
        "pmet": _PMET.get(structure) or replace(memit, others={"weight": 0.4 * memit.others["weight"]}),
        "alphaedit": replace(memit, others={"l2": _ALPHAEDIT_L2.get(structure, 10.0)}),
    }[method]


def _by_depth(architecture: Architecture) -> int:
    return round(DEPTH * (architecture.n_layers - 1))


def _spread_by_depth(architecture: Architecture) -> Preset:
    last = _by_depth(architecture)
    return _memit(max(0, last - SPREAD + 1), last, _TIGHT)
