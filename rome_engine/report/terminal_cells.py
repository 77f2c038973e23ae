"""The cells of a terminal heat map: how wide they are, and what is drawn in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

SHADES = "·░▒▓█"
DIGITS = "0123456789"
WIDEST = 3


@dataclass(frozen=True)
class Grid:
    """Where layers stand on a line: `bin` layers share a column, and a column is `chars` characters, or half of one."""

    layers: int
    bin: int
    chars: int
    half: bool

    @classmethod
    def fit(cls, layers: int, room: int, *, half_blocks: bool) -> Grid:
        """The widest cells that `room` characters allow; half a character a column before layers are binned."""
        if layers <= room:
            return cls(layers, bin=1, chars=min(WIDEST, room // layers), half=False)
        columns = 2 * room if half_blocks else room
        return cls(layers, bin=ceil(layers / columns), chars=1, half=half_blocks)

    @property
    def columns(self) -> int:
        return ceil(self.layers / self.bin)

    @property
    def width(self) -> int:
        """In characters."""
        return ceil(self.columns / 2) if self.half else self.columns * self.chars

    def place(self, layer: int) -> int:
        """The character that a layer's cell starts at."""
        column = layer // self.bin
        return column // 2 if self.half else column * self.chars

    def gather(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The strongest score of the layers of each column: (tokens, layers) to (tokens, columns)."""
        padded = np.full((scores.shape[0], self.columns * self.bin), np.nan)
        padded[:, : self.layers] = scores
        grouped = padded.reshape(scores.shape[0], self.columns, self.bin)
        # fmax passes a missing value over, so that one does not blank the layers beside it.
        strongest: NDArray[np.float64] = np.fmax.reduce(grouped, axis=2)
        return strongest


class Painter:
    """Draws values of `bottom`..`top`: in colour where there are colours, else in shades or digits.

    shade: the colour of a value. falling: the strong shade characters and digits stand for small values.
    """

    def __init__(
        self, shade: Callable[[float], str] | None, bottom: float, top: float, *, digits: bool, falling: bool = False
    ) -> None:
        self.shade = shade
        self.bottom = bottom
        self.top = top
        characters = DIGITS if digits else SHADES
        self.characters = characters[::-1] if falling else characters

    def row(self, values: NDArray[np.float64], grid: Grid) -> Text:
        """The cells of one line, for values of shape (columns,)."""
        if grid.half and self.shade is not None:
            return self._halves(values, self.shade)
        return Text().join(self._cell(float(value), grid.chars) for value in values)

    def _cell(self, value: float, chars: int) -> Text:
        if not isfinite(value):
            return Text("–".center(chars))
        if self.shade is not None:
            return Text(" " * chars, style=f"on {self.shade(value)}")
        return Text(self.characters[self._level(value, len(self.characters))] * chars)

    def _halves(self, values: NDArray[np.float64], shade: Callable[[float], str]) -> Text:
        """Two columns a character: the left one is its foreground, the right one its background."""
        line = Text()
        for start in range(0, len(values), 2):
            left, *right = (float(value) for value in values[start : start + 2])
            ground = f" on {shade(right[0])}" if right and isfinite(right[0]) else ""
            if isfinite(left):
                line.append("▌", style=shade(left) + ground)
            else:
                line.append(" ", style=ground.strip())
        return line

    def _level(self, value: float, levels: int) -> int:
        share = (value - self.bottom) / (self.top - self.bottom)
        return min(levels - 1, max(0, int(share * levels)))
