"""What locating and editing the same facts found: curves, a sweep, relations and controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rome_engine.bench.statistics import Estimate
from rome_engine.facts import Fact
from rome_engine.files import plain

Array = NDArray[np.float64]

SCORES = {
    "rewrite": "rewrite score",
    "es": "ES",
    "ps": "PS",
    "ns": "NS",
    "em": "rewrite magnitude",
    "free": "said freely",
}
"""How an edit is scored, and what people call it: see `locate_sweep.sweep`."""


@dataclass(frozen=True, eq=False)
class Tracing:
    """One map's row at the last subject token, for each fact.

    kind, window: as in Trace. effect: (facts, all layers), the signed indirect effect in probability of the answer.
    total_effect: (facts,).
    """

    kind: str
    window: int
    effect: Array
    total_effect: Array

    @property
    def name(self) -> str:
        """For rows and columns of tables."""
        return self.kind if self.window == 1 else f"{self.kind}, window {self.window}"


@dataclass(frozen=True)
class Left:
    """A fact that is not among the traced and edited ones, or is not at a layer, and why."""

    fact: str
    reason: str
    layer: int | None = None


@dataclass(frozen=True)
class Relation:
    """What one map's effects say of one score, with 95 % intervals over facts (clusters), see `locate_relation`.

    by_layer: the correlation over facts at each layer. pearson, spearman: the correlation over layers within a fact,
    averaged over facts. r2_layer, r2_tracing, r2_both: the share of the variance over facts and layers that the layer
    alone, the effect alone, and both together explain; gain: r2_both - r2_layer. chance, p: the mean gain, and the
    share of gains as large, where each fact is given another one's trace. p_corrected: p, corrected for the number of
    relations.
    """

    tracing: str
    score: str
    by_layer: tuple[Estimate, ...]
    pearson: Estimate
    spearman: Estimate
    r2_layer: Estimate
    r2_tracing: Estimate
    r2_both: Estimate
    gain: Estimate
    chance: float | None
    p: float | None
    p_corrected: float | None = None


@dataclass(frozen=True)
class Control:
    """A rule that says which layer a fact is edited at, and what came of it.

    layers: of each fact, in their order. scores: means over facts by score. differences: of the score that layers are
    chosen by, this rule's minus another's, by that one's name, paired by fact.
    """

    name: str
    layers: tuple[int, ...]
    scores: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]


@dataclass(frozen=True, eq=False)
class LocateEdit:
    """Facts traced and edited.

    facts: that were both, of the `given` ones; left: the others. layers: the edited ones (the last of several); depth:
    that at the fixed depth. score: by which layers are chosen. scores: (facts, layers) of each of SCORES; NaN where
    the edit was refused, which `refused` tells, or where a fact has no such prompts. seed: of all that was
    drawn (facts, noise, random layers, resamples). provenance: weights, settings by layer, versions.
    """

    model: str
    method: str
    source: str
    facts: tuple[Fact, ...]
    given: int
    left: tuple[Left, ...]
    n_layers: int
    layers: tuple[int, ...]
    depth: int
    score: str
    tracing: tuple[Tracing, ...]
    scores: Mapping[str, Array]
    refused: tuple[Left, ...]
    relations: tuple[Relation, ...]
    controls: tuple[Control, ...]
    seed: int
    provenance: Mapping[str, Any]

    def relation(self, tracing: str, score: str) -> Relation:
        """The relation of a map and a score, by their names."""
        return next(one for one in self.relations if (one.tracing, one.score) == (tracing, score))

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row a fact and layer; scores are None at layers that were not edited."""
        places = {layer: place for place, layer in enumerate(self.layers)}
        return [
            {
                "fact": fact.id,
                "subject": fact.subject,
                "relation": fact.relation,
                "layer": layer,
                **{f"effect ({one.name})": float(one.effect[at, layer]) for one in self.tracing},
                "total_effect": float(self.tracing[0].total_effect[at]),
                **{
                    name: float(values[at, places[layer]]) if layer in places else None
                    for name, values in self.scores.items()
                },
            }
            for at, fact in enumerate(self.facts)
            for layer in range(self.n_layers)
        ]

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object; numbers that are not there are null in a file."""
        record: dict[str, Any] = plain(replace(self, facts=()))
        return {**record, "facts": [fact.to_dict() for fact in self.facts]}
