"""The places in a model where activations can be read or patched, and their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rome_engine.errors import ActivationError, UnsupportedModelError
from rome_engine.model.heads import heads_proven
from rome_engine.model.language_model import LanguageModel

Patterns = str | Sequence[str]


@dataclass(frozen=True)
class Site:
    """One named activation: the module it passes, on which side, and the block around it (None: after all blocks).

    `kind` is the name's last part: embed, pre, heads, attn, mid, key, value, mlp, hidden or final.
    """

    name: str
    kind: str
    layer: int | None
    path: str
    is_input: bool = False


def sites(model: LanguageModel) -> tuple[Site, ...]:
    """All sites in the order in which a forward pass reaches them.

    There is no mid in a parallel block, and no heads where their layout cannot be proven.
    """
    architecture = model.architecture
    heads = _has_heads(model)
    found = [Site("embed", "embed", 0, architecture.blocks[0], is_input=True)]
    for layer in range(model.n_layers):
        parts = {
            "pre": "",
            "heads": architecture.attention_projection,
            "attn": architecture.attention_output,
            "mid": architecture.attention_output,
            "key": architecture.down_projection,
            "value": architecture.down_projection,
            "mlp": architecture.mlp_output,
            "hidden": "",
        }
        if not heads:
            del parts["heads"]
        if architecture.parallel:
            del parts["mid"]
        for kind, part in parts.items():
            path = architecture.path(layer, part)
            found.append(Site(f"blocks.{layer}.{kind}", kind, layer, path, kind in ("pre", "heads", "key")))
    found.append(Site("final", "final", None, architecture.final_norm))
    return tuple(found)


def names(model: LanguageModel) -> tuple[str, ...]:
    """The names of all activations that `run_with_cache` gives, in the order of the forward pass."""
    return tuple(site.name for site in sites(model))


def chosen(available: Sequence[Site], patterns: Patterns) -> tuple[Site, ...]:
    """The sites whose names match one of these glob patterns. Raises ActivationError for one that matches none."""
    wanted = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not wanted:
        raise ActivationError("no activation is named: give a name or a pattern such as blocks.*.mlp")
    for pattern in wanted:
        if not any(fnmatchcase(site.name, pattern) for site in available):
            raise ActivationError(f"no activation is named {pattern!r}: {_known(available)}")
    return tuple(site for site in available if any(fnmatchcase(site.name, pattern) for pattern in wanted))


def _known(available: Sequence[Site]) -> str:
    outside = [site.name for site in available if not site.name.startswith("blocks.")]
    kinds = dict.fromkeys(site.kind for site in available if site.name.startswith("blocks."))
    layers = max(site.layer or 0 for site in available)
    return f"there are {', '.join(outside)} and blocks.L.{{{','.join(kinds)}}} for L from 0 to {layers}"


def _has_heads(model: LanguageModel) -> bool:
    try:
        heads_proven(model)
    except UnsupportedModelError:
        return False
    return True
