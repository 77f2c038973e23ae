"""Small made-up studies of locating and editing."""

from __future__ import annotations

from typing import Any

import numpy as np

from rome_engine.bench.locate_controls import controls
from rome_engine.bench.locate_relation import relations
from rome_engine.bench.locate_result import SCORES, Left, LocateEdit, Tracing
from rome_engine.facts import Fact

FACTS, LAYERS, EDITED, DEPTH = 30, 8, (1, 2, 4, 6), 2


def build_study(*, slope: float = 0.0, knows: bool = False, **changes: Any) -> LocateEdit:
    """Thirty facts of eight layers, edited at four.

    slope: of the scores on the effect, beside the layer. knows: each fact works best where its trace is strongest.
    """
    random = np.random.default_rng(0)
    effect = 0.3 + 0.1 * random.normal(size=(FACTS, LAYERS))
    scores = 0.5 + 0.1 * np.cos(EDITED) + slope * (effect[:, EDITED] - 0.3) + 0.05 * random.normal(size=(FACTS, 4))
    if knows:
        scores = 0.2 + 0.6 * np.eye(4)[effect[:, EDITED].argmax(1)] + 0.01 * random.normal(size=(FACTS, 4))
    tracing = (
        Tracing("mlp", 3, effect, np.full(FACTS, 0.5)),
        Tracing("hidden", 1, random.random((FACTS, LAYERS)), np.full(FACTS, 0.5)),
    )
    every = {name: np.ones_like(scores) if name == "es" else scores for name in SCORES}
    fields: dict[str, Any] = {
        "model": "tiny/model", "method": "r-rome", "source": "facts.json",
        "facts": tuple(Fact("{} is in", f"Place {place}", id=f"f{place}") for place in range(FACTS)), "given": 40,
        "left": (Left("f99", "the model answers ' Rome'"),), "n_layers": LAYERS, "layers": EDITED, "depth": DEPTH,
        "score": "rewrite", "tracing": tracing, "scores": every, "refused": (Left("f3", "too hard", 4),),
        "relations": relations(tracing, EDITED, every), "controls": controls(tracing, EDITED, every, "rewrite", DEPTH),
        "seed": 0, "provenance": {"weights": "abc", "tracing": {"samples": 10, "threshold": 0.05}},
    }  # fmt: skip
    return LocateEdit(**{**fields, **changes})
