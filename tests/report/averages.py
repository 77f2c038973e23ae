"""Small made-up averages."""

from __future__ import annotations

from typing import Any

import numpy as np

from rome_engine.trace.average import Average, Counts, Left
from rome_engine.trace.average_map import FALLING, AverageMap

FACTS = 20


def build_map(kind: str = "hidden", **changes: Any) -> AverageMap:
    """Six roles by eight layers: the last subject token is strong early, the last token late."""
    mean = np.zeros((6, 8))
    mean[2] = [0.1, 0.3, 0.2, 0.1, 0, 0, 0, 0]
    mean[5] = [0, 0, 0, 0, 0, 0.1, 0.2, 0.25]
    mean[3] = -0.02
    if changes.get("metric") in FALLING:
        mean = -mean
    fields: dict[str, Any] = {
        "kind": kind, "window": 3 if kind in ("mlp", "attn") else 1, "head": None, "severed": "",
        "corruption": "gaussian:3s", "direction": "restore", "metric": "probability", "averaged": FACTS, "small": 2,
        "facts": np.array([20, 11, 20, 20, 20, 20]), "mean": mean, "band_low": mean - 0.05, "band_high": mean + 0.05,
        "noise_se": np.full((6, 8), 0.01), "high": 0.7, "low": 0.2, "total_effect": 0.5, "total_low": 0.4,
        "total_high": 0.6, "peaks": np.array([[2, 1]] * 15 + [[5, 7]] * 5), "peak_facts": (None,) * FACTS,
        "samples": 10,
    }  # fmt: skip
    return AverageMap(**{**fields, **changes})


def build_average(*maps: AverageMap, **changes: Any) -> Average:
    """Averages of 22 traced facts of 60, two of them too small."""
    maps = maps or tuple(build_map(kind) for kind in ("hidden", "mlp", "attn"))
    fields: dict[str, Any] = {
        "model": "tiny/model", "source": "facts.json", "metric": maps[0].metric,
        "counts": Counts(60, malformed=1, unknown=35, known=24, failed=2, traced=22), "threshold": 0.05,
        "small_included": False, "resamples": 1000, "seed": 1, "seconds": 3.5, "maps": maps,
        "left": (Left(4, "f4", "unknown", "answered ' Rome'"),),
        "provenance": {"weights": "abc", "answer_tokens": "all"},
    }  # fmt: skip
    return Average(**{**fields, **changes})


def head_maps(count: int) -> list[AverageMap]:
    """Maps of heads; the last one is the strongest, at the last token."""
    found = []
    for head in range(count):
        mean = np.zeros((6, 8))
        mean[5, 3] = 0.01 * (1 + head)
        found.append(build_map("head", head=head, mean=mean, band_low=mean - 0.001, band_high=mean + 0.001))
    return found
