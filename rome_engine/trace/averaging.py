"""From the maps of each fact to their average: means, bands over facts, noise, peaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rome_engine.errors import TraceError
from rome_engine.trace import bootstrap
from rome_engine.trace.agreement import average_agreement
from rome_engine.trace.average import SMALL_EFFECT, Average, Counts, Left
from rome_engine.trace.average_map import FALLING, AverageMap
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
    they are to be included. metric: the one that is shown first, of all that were measured. samples: noise draws a
    fact. The other arguments are as in Average.
    Raises TraceError for an unknown metric, for fewer than 1000 resamples, and where no fact enters: it says how many
    were looked at and what became of them.
    """
    check(metric, threshold, resamples)
    if not facts:
        raise TraceError(f"no fact enters the averages: {looked_at(counts, left)}")
    labels = facts[0][1].labels
    if any(one.labels != labels for _, one in facts):
        raise TraceError("the facts were not traced in the same maps: average those of one run")
    effects = np.array([maps.high[:, 0] - maps.low[:, 0] for _, maps in facts])  # (facts, maps), in probability
    large = effects >= threshold
    entering = np.ones_like(large) if include_small else large
    for at in np.flatnonzero(~entering.any(0)):
        raise TraceError(
            f"no fact enters the averages: of all {len(facts)} traced facts the total effect under "
            f"{labels[at].corruption} is under {threshold:g} (the largest is {effects[:, at].max():.3g}), too small to "
            f"localise; corrupt more strongly, or choose another threshold ({looked_at(counts, left)})"
        )
    measured = [name for name in METRICS if _measured(facts, entering, name)]
    if metric not in measured:
        raise TraceError(f"no fact was measured in the metric {metric}: it needs a foil in the fact file")
    maps = {
        name: tuple(
            _map(label, _chosen(facts, entering[:, at]), at, name, int((~large[:, at]).sum()), samples, resamples, seed)
            for at, label in enumerate(labels)
        )
        for name in sorted(measured, key=lambda name: name != metric)
    }
    shared = _chosen(facts, np.logical_and.reduce(entering, axis=1))
    agreement = [row for several in maps.values() for row in _agreement(several, shared)]
    return Average(
        model=model,
        source=source,
        metric=metric,
        counts=counts,
        threshold=threshold,
        small_included=include_small,
        resamples=resamples,
        seed=seed,
        seconds=seconds,
        maps=maps.pop(metric),
        others=maps,
        agreement=tuple(agreement),
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


_Facts = Sequence[tuple[str | None, FactMaps]]


def _chosen(facts: _Facts, wanted: NDArray[np.bool_]) -> _Facts:
    return [fact for fact, enters in zip(facts, wanted.tolist(), strict=True) if enters]


def _measured(facts: _Facts, entering: NDArray[np.bool_], metric: str) -> bool:
    """Whether each map has a fact that was measured in this metric; entering: (facts, maps)."""
    high = np.array([maps.high[:, METRICS.index(metric)] for _, maps in facts])
    return bool((np.isfinite(high) & entering).any(0).all())


def _agreement(maps: Sequence[AverageMap], shared: _Facts) -> list[dict[str, Any]]:
    """How far corruptions agree on the facts that enter the means of all of them."""
    column = METRICS.index(maps[0].metric)
    effects = [one.effect[:, column] for _, one in shared if np.isfinite(one.high[:, column]).all()]
    means = bootstrap.mean(np.stack(effects)) if effects else np.full((len(maps), *maps[0].mean.shape), np.nan)
    return average_agreement(maps, list(means), len(effects))


def _map(
    label: Label, facts: _Facts, index: int, metric: str, small: int, samples: int, resamples: int, seed: int
) -> AverageMap:
    """The average of the facts' maps at this index."""
    column = METRICS.index(metric)
    effect = np.stack([maps.effect[index, column] for _, maps in facts])  # (facts, roles, layers)
    noise = np.stack([maps.noise[index, column] for _, maps in facts])
    runs = np.array([[maps.high[index, column], maps.low[index, column]] for _, maps in facts])
    ends = np.column_stack([runs, runs[:, 0] - runs[:, 1]])
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
        samples=1 if label.corruption.startswith("swap") else samples,
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
