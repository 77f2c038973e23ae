"""The result of averaging the traces of many facts: its maps, and how many facts they rest on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rome_engine.errors import TraceError
from rome_engine.files import plain
from rome_engine.trace.average_map import AverageMap
from rome_engine.trace.records import read_record

SMALL_EFFECT = 0.05
"""A total effect (high - low) under this many units of probability is too small to localise."""


@dataclass(frozen=True)
class Counts:
    """What became of the records of a fact file: records = malformed + skipped + unknown + known.

    malformed: no usable fact. skipped: longer than the model's context, or said before. unknown: answered otherwise.
    known: answered right, which are traced + failed + waiting. failed: their trace raised an error. waiting: left
    untraced by a limit.
    """

    records: int
    malformed: int = 0
    skipped: int = 0
    unknown: int = 0
    known: int = 0
    failed: int = 0
    waiting: int = 0
    traced: int = 0


@dataclass(frozen=True)
class Left:
    """A record that is not in the averages: its number in the file from 1, its id, what became of it, and why."""

    record: int
    fact: str | None
    status: str
    reason: str


@dataclass(frozen=True, eq=False)
class Average:
    """Traces averaged over the facts of a file that the model answers right.

    maps: in the order corruption, severed graph, kind, window or head. source: the fact file's name. metric: that of
    all maps; `others` holds those of the other metrics, which `of` shows in their place. threshold: of the total effect
    in probability; small_included: whether facts under it are averaged too. resamples, seed: of the bootstrap.
    agreement: of maps that differ in the corruption alone, in all metrics, see agreement.average_agreement. left: the
    records that were not traced, and why. seconds: that tracing took, over all sittings. provenance: model, weights,
    number type, versions, settings, and the fact file's sha256.
    """

    model: str
    source: str
    metric: str
    counts: Counts
    threshold: float
    small_included: bool
    resamples: int
    seed: int
    seconds: float
    maps: tuple[AverageMap, ...]
    others: Mapping[str, tuple[AverageMap, ...]] = field(default_factory=dict)
    agreement: tuple[Mapping[str, Any], ...] = ()
    left: tuple[Left, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def small(self) -> int:
        """The greatest number of facts that a map has under the threshold."""
        return max(one.small for one in self.maps)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that `of` knows."""
        return (self.metric, *self.others)

    def of(self, metric: str) -> Average:
        """The same averages in another metric. Raises TraceError for one that was not averaged."""
        if metric == self.metric:
            return self
        if metric not in self.others:
            raise TraceError(f"these averages have no metric {metric!r}: they have {', '.join(self.metrics)}")
        others = {self.metric: self.maps, **{name: maps for name, maps in self.others.items() if name != metric}}
        return replace(self, metric=metric, maps=self.others[metric], others=others)

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table of all maps in all metrics."""
        return [row for maps in (self.maps, *self.others.values()) for one in maps for row in one.rows()]

    def to_dict(self) -> dict[str, Any]:
        """The averages as a JSON object; the field names are promised to scripts."""
        return {
            **plain(replace(self, maps=(), others={})),
            "maps": [one.to_dict() for one in self.maps],
            "others": {metric: [one.to_dict() for one in maps] for metric, maps in self.others.items()},
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Average:
        """The averages of what `to_dict` gave. Raises TraceError for anything else."""
        try:
            return cls(
                **{
                    **record,
                    "counts": Counts(**record["counts"]),
                    "maps": tuple(AverageMap.from_dict(one) for one in record["maps"]),
                    "others": {
                        metric: tuple(AverageMap.from_dict(one) for one in maps)
                        for metric, maps in record["others"].items()
                    },
                    "agreement": tuple(record["agreement"]),
                    "left": tuple(Left(**one) for one in record["left"]),
                }
            )
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise TraceError(
                f"these are no averages: {error} (such a file is written by `rome-engine trace-facts --out`)"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> Average:
        """The averages in a JSON file. Raises TraceError for anything else."""
        return cls.from_dict(read_record(path, "averages"))
