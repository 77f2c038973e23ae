"""What is kept of one fact's traces: means over its tokens of each role, for every map and metric."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rome_engine.trace.metrics import METRICS
from rome_engine.trace.result import Trace
from rome_engine.trace.roles import ROLES, role_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Label:
    """Which map it is, as in Trace; the same for every fact."""

    kind: str
    window: int
    head: int | None
    severed: str
    corruption: str
    direction: str


@dataclass(frozen=True, eq=False)
class FactMaps:
    """All maps of one fact by token role; NaN where it has no token of a role, or no such metric.

    effect, noise: (maps, metrics, roles, layers), the mean over the role's tokens of the signed indirect effect, and
    the variance of that mean from the noise draws. It is the mean over the tokens of deviation² / samples, which bounds
    the variance of the tokens' mean from above: tokens of one fact share their draws. NaN where a single noise draw
    tells nothing of its spread.
    high, low: (maps, metrics), the clean and the corrupted run's own values.
    """

    labels: tuple[Label, ...]
    effect: Array
    noise: Array
    high: Array
    low: Array
    noise_sigma: tuple[float, ...]
    bos_added: bool
    engine: str

    @classmethod
    def of(cls, traces: Sequence[Trace]) -> FactMaps:
        """The maps of one fact's traces."""
        both = [[_metric(trace, metric) for metric in METRICS] for trace in traces]
        values = [[one.of(metric) if metric in one.metrics else None for metric in METRICS] for one in traces]
        return cls(
            labels=tuple(
                Label(one.kind, one.window, one.head, one.severed, one.corruption, one.direction) for one in traces
            ),
            effect=np.stack([[effect for effect, _ in metrics] for metrics in both]),
            noise=np.stack([[noise for _, noise in metrics] for metrics in both]),
            high=np.array([[np.nan if one is None else one.high for one in metrics] for metrics in values]),
            low=np.array([[np.nan if one is None else one.low for one in metrics] for metrics in values]),
            noise_sigma=tuple(float(one.noise_sigma) for one in traces),
            bos_added=bool(traces[0].provenance.get("bos_added", False)),
            engine=traces[0].engine,
        )

    def to_bytes(self) -> bytes:
        """An .npz archive, which loses no bit."""
        described = {
            "labels": [asdict(label) for label in self.labels],
            "noise_sigma": self.noise_sigma,
            "bos_added": self.bos_added,
            "engine": self.engine,
        }
        content = BytesIO()
        np.savez_compressed(
            content,
            described=np.array(json.dumps(described)),
            effect=self.effect,
            noise=self.noise,
            high=self.high,
            low=self.low,
        )
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> FactMaps:
        """The maps of what `to_bytes` gave."""
        with np.load(BytesIO(content), allow_pickle=False) as archive:
            described: dict[str, Any] = json.loads(str(archive["described"]))
            arrays = {name: archive[name] for name in ("effect", "noise", "high", "low")}
        return cls(
            labels=tuple(Label(**label) for label in described["labels"]),
            noise_sigma=tuple(described["noise_sigma"]),
            bos_added=described["bos_added"],
            engine=described["engine"],
            **arrays,
        )


def _metric(trace: Trace, metric: str) -> tuple[Array, Array]:
    """The role means of one metric's effect and of its noise variance, (roles, layers) each."""
    if metric not in trace.metrics:
        nothing = np.full((len(ROLES), trace.scores.shape[1]), np.nan)
        return nothing, nothing
    shown = trace.of(metric)
    if shown.corruption.startswith("swap"):
        variance = np.where(np.isnan(shown.scores), np.nan, 0.0)
    elif shown.deviation is None or shown.samples < 2:
        variance = np.full(shown.scores.shape, np.nan)
    else:
        variance = shown.deviation**2 / shown.samples
    return by_role(shown.indirect_effect, shown), by_role(variance, shown)


def by_role(values: Array, trace: Trace) -> Array:
    """The mean over the tokens of each role, (tokens, layers) -> (roles, layers); cells that are NaN are left out."""
    tokens = len(trace.tokens)
    roles = [role_of(position, trace.subject_range, tokens) for position in range(tokens)]
    found = np.full((len(ROLES), values.shape[1]), np.nan)
    for index, role in enumerate(ROLES):
        rows = values[[position for position, one in enumerate(roles) if one == role]]
        there = ~np.isnan(rows)
        count = there.sum(0)
        total = np.where(there, rows, 0.0).sum(0)
        found[index] = np.divide(total, count, out=found[index], where=count > 0)
    return found
