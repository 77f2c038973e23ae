"""What to patch, as data: cells, each a set of states to restore. Engines know nothing of kinds or windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rome_engine.errors import TraceError
from rome_engine.trace.result import KINDS

Progress = Callable[[int, int], None]
"""Told how many cells are done, of how many."""


@dataclass(frozen=True, order=True)
class Patch:
    """One state put back to its value in the clean run: what `component` gives at this layer and position."""

    layer: int
    component: str
    position: int


@dataclass(frozen=True)
class Cell:
    """One experiment: the patches made together in one corrupted run. `token`, `layer`: where its score belongs."""

    token: int
    layer: int
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class Plan:
    """The cells of one map over `tokens` × `layers`."""

    kind: str
    window: int
    tokens: int
    layers: int
    cells: tuple[Cell, ...]


def window_layers(layer: int, window: int, layers: int) -> range:
    """The layers restored together: [layer - ⌊w/2⌋, layer + ⌈w/2⌉ - 1], clipped (Meng et al. 2022, code)."""
    return range(max(0, layer - window // 2), min(layers, layer + (window + 1) // 2))


def plan_map(kind: str, tokens: int, layers: int, window: int = 10) -> Plan:
    """One cell a token and layer: the block output there ("hidden"), or the MLP's or attention's in a window of layers.

    Raises TraceError for an unknown kind or a window below 1; a window wider than the model is all of it.
    """
    if kind not in KINDS:
        raise TraceError(f"there is no kind {kind!r}: choose {', '.join(KINDS)}")
    if kind == "hidden":
        window = 1
    if window < 1:
        raise TraceError(f"the window must be at least 1 layer wide, not {window}")
    cells = tuple(
        Cell(token, layer, tuple(Patch(at, kind, token) for at in window_layers(layer, window, layers)))
        for token in range(tokens)
        for layer in range(layers)
    )
    return Plan(kind, window, tokens, layers, cells)
