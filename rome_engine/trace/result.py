"""The result of a causal trace, with everything needed to say how it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rome_engine.errors import TraceError

KINDS = ("hidden", "mlp", "attn")


@dataclass(frozen=True, eq=False)
class Trace:
    """The map of one prompt: how far restoring one state brings the answer back.

    `scores` has shape (tokens, layers) and holds the probability of `answer` at the last position, averaged over the
    corrupted rows, with the state at that token and layer restored (Meng et al. 2022, section 2.1). `high` is that of
    the clean run, `low` that of the corrupted run. `subject_range` is [begin, end) in tokens. `window` is the number
    of layers restored together (1 for kind "hidden"). Nothing is clipped: effects are signed.
    """

    model: str
    prompt: str
    subject: str
    tokens: tuple[str, ...]
    subject_range: tuple[int, int]
    answer: str
    high: float
    low: float
    kind: str
    window: int
    noise_sigma: float
    samples: int
    seed: int
    scores: NDArray[np.float64]
    seconds: float
    engine: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total_effect(self) -> float:
        """high - low: what there is to bring back."""
        return self.high - self.low

    @property
    def indirect_effect(self) -> NDArray[np.float64]:
        """scores - low, shape (tokens, layers)."""
        return self.scores - self.low

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row a cell."""
        begin, end = self.subject_range
        return [
            {
                "token": position,
                "text": text,
                "role": "subject" if begin <= position < end else "before" if position < begin else "after",
                "layer": layer,
                "kind": self.kind,
                "window": self.window,
                "metric": "probability",
                "value": float(self.scores[position, layer]),
            }
            for position, text in enumerate(self.tokens)
            for layer in range(self.scores.shape[1])
        ]

    def to_dict(self) -> dict[str, Any]:
        """The trace as a JSON object; the field names are promised to scripts."""
        return {
            "model": self.model,
            "prompt": self.prompt,
            "subject": self.subject,
            "tokens": list(self.tokens),
            "subject_range": list(self.subject_range),
            "answer": self.answer,
            "high": self.high,
            "low": self.low,
            "kind": self.kind,
            "window": self.window,
            "noise_sigma": self.noise_sigma,
            "samples": self.samples,
            "seed": self.seed,
            "scores": self.scores.tolist(),
            "seconds": self.seconds,
            "engine": self.engine,
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Trace:
        """The trace of what `to_dict` gave. Raises TraceError where fields are missing."""
        try:
            return cls(
                **{
                    **record,
                    "tokens": tuple(record["tokens"]),
                    "subject_range": (int(record["subject_range"][0]), int(record["subject_range"][1])),
                    "scores": np.asarray(record["scores"], dtype=np.float64),
                }
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise TraceError(
                f"this is no trace: {error} (a trace file is written by `rome-engine trace --out`)"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """The trace in a JSON file. Raises TraceError for anything else."""
        try:
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TraceError(f"no trace can be read from {path}: {error}") from error
        return cls.from_dict(record)
