"""A run as it is read: what was measured, on what, and each record's figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

BEFORE = -1
"""The checkpoint of the untouched model."""

Status = Literal["done", "failed"]


@dataclass(frozen=True)
class Row:
    """One record's figures at one checkpoint: 0, 1, … after each batch of edits; BEFORE on the untouched model.

    batch: in which batch of edits the record was. position: its place in the order of editing. reason: why it failed.
    seconds: what the record took, where it was measured alone or its share of a group. figures: by a metric's name; one
    that has nothing to measure here is left out. texts: what was generated, by ask.
    """

    position: int
    id: str
    checkpoint: int
    batch: int
    status: Status
    figures: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    texts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Run:
    """A benchmark run: `configuration` (method, settings, data set, protocol, metrics, seed …), `environment` (weights'
    hash, versions, dtype, kernels …), the rows, and figures of the whole model by checkpoint (perplexity …).

    total: how many records the run has when it is finished.
    """

    path: Path
    configuration: Mapping[str, Any]
    environment: Mapping[str, Any]
    rows: tuple[Row, ...]
    general: Mapping[int, Mapping[str, float]]
    total: int

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def method(self) -> str:
        """The editing method."""
        return str(self.configuration["method"])

    @property
    def last(self) -> int:
        """The last checkpoint there is; BEFORE where nothing was edited yet."""
        return max((row.checkpoint for row in self.rows), default=BEFORE)

    def at(self, checkpoint: int) -> tuple[Row, ...]:
        """The rows of one checkpoint, in the order of editing."""
        return tuple(sorted((row for row in self.rows if row.checkpoint == checkpoint), key=lambda row: row.position))
