"""The result of a causal trace, with everything needed to say how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rome_engine.errors import TraceError
from rome_engine.files import plain
from rome_engine.trace.records import read_record
from rome_engine.trace.roles import role_of

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Values:
    """One metric of a map: scores (tokens, layers), their deviation over the samples, and the two runs' own values."""

    high: float
    low: float
    scores: Array
    deviation: Array | None = None


@dataclass(frozen=True, eq=False)
class Trace:
    """The map of one prompt: how far exchanging one state brings the answer back, or takes it away.

    `scores` has shape (tokens, layers) and holds `metric` (the probability of `answer` at the last position, averaged
    over the samples), with the state at that token and layer exchanged (Meng et al. 2022, section 2.1); `deviation` its
    standard deviation over the samples. `high` is that of the clean run, `low` that of the corrupted run. Cells that
    were not asked for are NaN. `direction` "restore" puts clean states into the corrupted run, "corrupt" corrupted
    ones into the clean run. `subject_range` is [begin, end) in tokens. `window` is the number of layers exchanged
    together, `head` the head of a map of kind "head", `severed` what was held at the patched run's values. `others`
    holds the other metrics, which `of` shows in the place of this one. Nothing is clipped: effects are signed.
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
    scores: Array
    seconds: float
    engine: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    direction: str = "restore"
    corruption: str = "gaussian"
    head: int | None = None
    severed: str = ""
    foil: str | None = None
    fact: str | None = None
    metric: str = "probability"
    deviation: Array | None = None
    others: Mapping[str, Values] = field(default_factory=dict)

    @property
    def total_effect(self) -> float:
        """high - low: what there is to bring back."""
        return self.high - self.low

    @property
    def indirect_effect(self) -> Array:
        """How far a cell moves the patched run: scores - low where states are restored, high - scores where they are
        corrupted; shape (tokens, layers)."""
        return self.scores - self.low if self.direction == "restore" else self.high - self.scores

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that `of` knows."""
        return (self.metric, *self.others)

    def of(self, metric: str) -> Trace:
        """The same map in another metric. Raises TraceError for one that was not measured."""
        if metric == self.metric:
            return self
        if metric not in self.others:
            raise TraceError(f"this trace has no metric {metric!r}: it has {', '.join(self.metrics)}")
        values = self.others[metric]
        own = Values(self.high, self.low, self.scores, self.deviation)
        others = {self.metric: own, **{name: one for name, one in self.others.items() if name != metric}}
        return replace(self, metric=metric, others=others, **vars(values))

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row a cell and metric; cells that were not asked for are left out.

        `clean` and `corrupted` are the two runs' own values, `deviation` is over the samples.
        """
        found = []
        for position, text in enumerate(self.tokens):
            shared = {
                "fact": self.fact,
                "token": position,
                "text": text,
                "role": role_of(position, self.subject_range, len(self.tokens)),
            }
            for layer in range(self.scores.shape[1]):
                if np.isnan(self.scores[position, layer]):
                    continue
                for metric in self.metrics:
                    values = self.of(metric)
                    deviation = values.deviation
                    found.append(
                        {
                            **shared,
                            "layer": layer,
                            "kind": self.kind,
                            "head": self.head,
                            "window": self.window,
                            "direction": self.direction,
                            "severed": self.severed,
                            "corruption": self.corruption,
                            "metric": metric,
                            "value": float(values.scores[position, layer]),
                            "deviation": None if deviation is None else float(deviation[position, layer]),
                            "clean": values.high,
                            "corrupted": values.low,
                        }
                    )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The trace as a JSON object; the field names are promised to scripts."""
        record: dict[str, Any] = plain(self)
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Trace:
        """The trace of what `to_dict` gave. Raises TraceError where fields are missing."""
        try:
            others = {
                name: Values(**{**values, "scores": _array(values["scores"]), "deviation": _array(values["deviation"])})
                for name, values in record.get("others", {}).items()
            }
            begin, end = record["subject_range"]
            return cls(
                **{
                    **record,
                    "tokens": tuple(record["tokens"]),
                    "subject_range": (int(begin), int(end)),
                    "scores": _array(record["scores"]),
                    "deviation": _array(record.get("deviation")),
                    "others": others,
                }
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise TraceError(
                f"this is no trace: {error} (a trace file is written by `rome-engine trace --out`)"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """The trace in a JSON file. Raises TraceError for anything else."""
        return cls.from_dict(read_record(path, "trace"))


def _array(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    return None if value is None else np.asarray(value, dtype=np.float64)
