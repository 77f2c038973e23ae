"""From the maps of each fact to their average: means, bands over facts, noise, peaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rome_engine.errors import TraceError
from rome_engine.trace import bootstrap
from rome_engine.trace.average import FALLING, SMALL_EFFECT, Average, AverageMap, Counts, Left
from rome_engine.trace.metrics import METRICS
from rome_engine.trace.per_fact import FactMaps, Label

Array = NDArray[np.float64]


def average(
    facts: Sequence[tuple[str | None, FactMaps]],
    counts: Counts,
    *,
    metric: str = "probability",
    threshold: float = SMALL_EFFECT,
    include_small: bool = False,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 1,
    left: Sequence[Left] = (),
    model: str = "",
    source: str = "",
    samples: int = 10,
    seconds: float = 0.0,
    provenance: Mapping[str, Any] | None = None,
) -> Average:
    """The averages of traced facts, each given by its id and its maps; the same facts give the same numbers.

    Facts whose total effect in probability is under the threshold are counted, and left out of a map's means unless
    they are to be included. The other arguments are as in Average.
    Raises TraceError for an unknown metric, for fewer than 1000 resamples, and where no fact enters: it says how many
    were looked at and what became of them.
    """
    check(metric, threshold, resamples)
    if not facts:
        raise TraceError(f"no fact enters the averages: {looked_at(counts, left)}")
    labels = facts[0][1].labels
    if any(one.labels != labels for _, one in facts):
        raise TraceError("the facts were not traced in the same maps: average those of one run")
    made = []
    for index, label in enumerate(labels):
        total = np.array([maps.high[index, 0] - maps.low[index, 0] for _, maps in facts])  # in probability
        large = total >= threshold
        entering = facts if include_small else [fact for fact, enters in zip(facts, large, strict=True) if enters]
        if not entering:
            raise TraceError(
                f"no fact enters the averages: of all {len(facts)} traced facts the total effect under "
                f"{label.corruption} is under {threshold:g} (the largest is {total.max():.3g}), too small to localise; "
                f"corrupt more strongly, or choose another threshold ({looked_at(counts, left)})"
            )
        small = int((~large).sum())
        made.append(
            _map(label, [(fact, _of(maps, index, metric)) for fact, maps in entering], metric, small, resamples, seed)
        )
    return Average(
        model=model,
        source=source,
        metric=metric,
        counts=counts,
        threshold=threshold,
        small_included=include_small,
        samples=samples,
        resamples=resamples,
        seed=seed,
        seconds=seconds,
        maps=tuple(made),
        left=tuple(left),
        provenance={**(provenance or {}), **_told(facts)},
    )


def check(metric: str, threshold: float, resamples: int = bootstrap.RESAMPLES) -> None:
    """Raises TraceError for what cannot be averaged."""
    if metric not in METRICS:
        raise TraceError(f"there is no metric {metric!r}: choose {', '.join(METRICS)}")
    if not np.isfinite(threshold):
        raise TraceError(f"the threshold of the total effect must be a number, not {threshold}")
    if resamples < 1000:
        raise TraceError(f"a percentile band needs at least 1000 resamples, not {resamples}")


def looked_at(counts: Counts, left: Sequence[Left] = ()) -> str:
    """How many records were looked at, and what became of them, in one line."""
    parts = [
        (counts.traced, "traced"),
        (counts.failed, "failed"),
        (counts.waiting, "not traced yet"),
        (counts.unknown, "not answered right by the model"),
        (counts.malformed, "malformed"),
        (counts.skipped, "skipped"),
    ]
    said = ", ".join(f"{count} {what}" for count, what in parts if count)
    first = next((one for status in ("failed", "unknown") for one in left if one.status == status), None)
    why = f"; record {first.record}: {first.reason}" if first is not None else ""
    return f"{counts.records} looked at: {said or 'none'}{why}"


_Values = tuple[Array, Array, float, float]


def _of(maps: FactMaps, index: int, metric: str) -> _Values:
    """Effect and noise (roles, layers), high and low of one map in one metric."""
    column = METRICS.index(metric)
    return (
        maps.effect[index, column],
        maps.noise[index, column],
        float(maps.high[index, column]),
        float(maps.low[index, column]),
    )


def _map(
    label: Label, facts: Sequence[tuple[str | None, _Values]], metric: str, small: int, resamples: int, seed: int
) -> AverageMap:
    effect = np.stack([values[0] for _, values in facts])  # (facts, roles, layers)
    noise = np.stack([values[1] for _, values in facts])
    ends = np.array([[high, low, high - low] for _, (_, _, high, low) in facts])
    if np.isnan(ends).all():
        raise TraceError(f"no fact was measured in the metric {metric}: it needs a foil in the fact file")
    shape = effect.shape[1:]
    columns = np.concatenate([effect.reshape(len(facts), -1), ends[:, 2:]], axis=1)
    low, high = bootstrap.band(columns, resamples, seed)
    there = ~np.isnan(effect)
    number = there.sum(0)
    variance = np.where(there, noise, 0.0).sum(0)
    average_high, average_low, total = bootstrap.mean(ends)
    return AverageMap(
        **vars(label),
        metric=metric,
        averaged=len(facts),
        small=small,
        facts=there.any(2).sum(0).astype(np.int64),
        mean=bootstrap.mean(effect),
        band_low=low[:-1].reshape(shape),
        band_high=high[:-1].reshape(shape),
        noise_se=np.divide(np.sqrt(variance), number, out=np.full(shape, np.nan), where=number > 0),
        high=float(average_high),
        low=float(average_low),
        total_effect=float(total),
        total_low=float(low[-1]),
        total_high=float(high[-1]),
        peaks=_peaks(-effect if metric in FALLING else effect),
        peak_facts=tuple(fact for fact, _ in facts),
    )


def _peaks(effect: Array) -> NDArray[np.int64]:
    """The greatest cell of each fact, (facts, roles, layers) -> (facts, 2); the first of equal ones."""
    flat = np.where(np.isnan(effect), -np.inf, effect).reshape(len(effect), -1)
    found = np.stack(np.unravel_index(flat.argmax(1), effect.shape[1:]), axis=1).astype(np.int64)
    found[np.isinf(flat.max(1))] = -1
    return found


def _told(facts: Sequence[tuple[str | None, FactMaps]]) -> dict[str, Any]:
    """What the facts' traces say of themselves, for the provenance."""
    first = facts[0][1]
    return {
        "noise_sigma": {label.corruption: sigma for label, sigma in zip(first.labels, first.noise_sigma, strict=True)},
        "bos_added": sum(maps.bos_added for _, maps in facts),
        "engines": sorted({maps.engine for _, maps in facts}),
    }
