"""What to patch, as data: cells, each a set of states to exchange. Engines know no kinds, windows or severed paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from rome_engine.errors import TraceError

Progress = Callable[[int, int], None]
"""Told how many cells are done, of how many."""

Run = Literal["clean", "corrupted"]
Direction = Literal["restore", "corrupt"]
"""restore: states of the clean run are put into the corrupted one, does the answer come back? (Sufficiency, denoising.)
corrupt: states of the corrupted run are put into the clean one, does the answer go? (Necessity, noising.)"""

KINDS = ("hidden", "mlp", "attn", "head", "pre", "mid")
"""What a map can exchange: a block's output, what its MLP or its attention adds, what one head hands to the attention's
output projection, and the residual stream before each sublayer (`pre` a block's input, `mid` after its attention)."""

CLASSIC = ("hidden", "mlp", "attn")
"""The three maps of Meng et al. 2022."""

WINDOWED = ("mlp", "attn")
"""The kinds that are exchanged in a window of layers; the others hold all or nothing of a layer."""


def base_run(direction: Direction) -> Run:
    """The run that is patched."""
    return "corrupted" if direction == "restore" else "clean"


def source_run(direction: Direction) -> Run:
    """The run whose states are put in."""
    return "clean" if direction == "restore" else "corrupted"


@dataclass(frozen=True, order=True)
class Patch:
    """One state set to its value in a run: what `component` gives at this layer and position.

    component: "hidden" (layer -1: what the first block is given), "mid", "mlp", "attn", or "head" with its number.
    """

    layer: int
    component: str
    position: int
    source: Run = "clean"
    head: int = 0


@dataclass(frozen=True)
class Cell:
    """One experiment: the patches made together in one run. `token`, `layer`: where its score belongs."""

    token: int
    layer: int
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class Pin:
    """States held at their values in the run that is patched, while others are exchanged: a severed path.

    layers None: all. positions None: the token whose state is exchanged (the "modified graph" of Meng et al. 2022,
    section 2.3). A state that is exchanged itself stays so; one that a held state lies behind (a head behind a held
    attention) is lost.
    """

    component: str
    layers: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    head: int = 0


@dataclass(frozen=True)
class Plan:
    """The cells of one map; `severed` names the pins that hold in all of them."""

    kind: str
    window: int
    head: int | None
    direction: Direction
    severed: str
    cells: tuple[Cell, ...]


def window_layers(layer: int, window: int, layers: int) -> range:
    """The layers exchanged together: [layer - ⌊w/2⌋, layer + ⌈w/2⌉ - 1], clipped (Meng et al. 2022, code)."""
    return range(max(0, layer - window // 2), min(layers, layer + (window + 1) // 2))


def plan_map(
    kind: str,
    positions: Iterable[int],
    layers: int,
    window: int = 10,
    *,
    head: int | None = None,
    direction: str = "restore",
    pins: Sequence[Pin] = (),
    severed: str = "",
) -> Plan:
    """One cell a position and layer. kind: see KINDS; "head" wants the head's number.

    Raises TraceError for an unknown kind or direction, or a window below 1; one wider than the model is all of it.
    """
    if kind not in KINDS:
        raise TraceError(f"there is no kind {kind!r}: choose {', '.join(KINDS)}")
    if direction not in get_args(Direction):
        raise TraceError(f"there is no direction {direction!r}: choose {', '.join(get_args(Direction))}")
    if (kind == "head") != (head is not None):
        raise TraceError("a map of kind head, and no other, is of one head: give its number")
    window = window if kind in WINDOWED else 1
    if window < 1:
        raise TraceError(f"the window must be at least 1 layer wide, not {window}")
    way = cast(Direction, direction)
    source, base = source_run(way), base_run(way)
    cells = []
    for position in positions:
        for layer in range(layers):
            if kind == "pre":
                exchanged = [Patch(layer - 1, "hidden", position, source)]
            else:
                at = window_layers(layer, window, layers)
                exchanged = [Patch(each, kind, position, source, head or 0) for each in at]
            cells.append(Cell(position, layer, (*exchanged, *_pinned(pins, exchanged, base, position, layers))))
    return Plan(kind, window, head, way, severed, tuple(cells))


def _pinned(
    pins: Sequence[Pin], exchanged: Sequence[Patch], base: Run, position: int, layers: int
) -> tuple[Patch, ...]:
    taken = {(patch.layer, patch.component, patch.position, patch.head) for patch in exchanged}
    held = {
        Patch(layer, pin.component, at, base, pin.head)
        for pin in pins
        for layer in (range(layers) if pin.layers is None else pin.layers)
        for at in ((position,) if pin.positions is None else pin.positions)
        if (layer, pin.component, at, pin.head) not in taken
    }
    return tuple(sorted(held))
