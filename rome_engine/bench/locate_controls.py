"""Rules that say at which layer each fact is edited, compared on the same facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rome_engine.bench.locate_result import Array, Control, Tracing
from rome_engine.bench.statistics import Estimate, estimate
from rome_engine.trace.bootstrap import mean

Places = NDArray[np.int64]

RANDOM = "a random layer"
BEST = "the best layer of the other facts"
SHARES = ("es", "ps", "ns", "free")


def at_depth(depth: int) -> str:
    """The name of the fixed depth's rule."""
    return f"layer {depth} (fixed depth)"


def traced_name(tracing: str) -> str:
    """The name of a map's rule."""
    return f"its strongest trace ({tracing})"


def controls(
    tracing: Sequence[Tracing],
    layers: Sequence[int],
    scores: Mapping[str, Array],
    score: str,
    depth: int,
    seed: int = 0,
) -> tuple[Control, ...]:
    """What each rule brings, with intervals over facts; layers are always among the edited ones.

    Random layers are drawn by the seed; the best layer is chosen for each fact by the mean score of all others, so that
    no fact chooses for itself. scores: (facts, layers) by name.
    """
    facts = len(scores[score])
    rules: dict[str, Places] = {
        RANDOM: np.random.default_rng(seed).integers(len(layers), size=facts),
        at_depth(depth): np.full(facts, list(layers).index(depth)),
        BEST: _best(scores[score]),
        **{traced_name(one.name): one.effect[:, list(layers)].argmax(1) for one in tracing},
    }
    rows = np.arange(facts)
    found = {name: {of: values[rows, places] for of, values in scores.items()} for name, places in rules.items()}
    return tuple(
        Control(
            name=name,
            layers=tuple(layers[place] for place in places.tolist()),
            scores={of: mean_of(values, of, seed) for of, values in found[name].items()},
            differences={
                other: mean_of(found[name][score] - found[other][score], "difference", seed)
                for other in rules
                if other != name
            },
        )
        for name, places in rules.items()
    )


def _best(values: Array) -> Places:
    """For each fact the layer with the greatest mean over all others, (facts, layers) -> (facts,)."""
    places = []
    for fact in range(len(values)):
        means = mean(np.delete(values, fact, axis=0))
        places.append(int(np.where(np.isfinite(means), means, -np.inf).argmax()))
    return np.array(places)


def mean_of(values: Array, score: str, seed: int) -> Estimate:
    """The mean of one score over the facts that have it, with its interval."""
    there = values[np.isfinite(values)]
    return estimate(there[:, None], share=score in SHARES, seed=seed)
