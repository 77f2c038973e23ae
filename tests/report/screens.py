"""Small made-up screens."""

from __future__ import annotations

from typing import Any

import numpy as np

from rome_engine.trace.screened import Missed, Screen, ScreenedMap
from tests.report.conftest import TOKENS

LAYERS, HEADS = 4, 2


def build_screened(kind: str = "hidden", window: int = 1) -> ScreenedMap:
    """The subject's last token is strong at layer 1, head 1 more than head 0; two cells are verified."""
    shape = (len(TOKENS), LAYERS)
    approximate, exact = np.zeros(shape), np.full(shape, np.nan)
    chosen = np.full(shape, "", dtype="<U6")
    approximate[1, 1], exact[1, 1], chosen[1, 1] = 3.0, 2.0, "top"
    approximate[2, 3], exact[2, 3], chosen[2, 3] = -0.25, 0.125, "random"
    if kind == "head":
        approximate, exact, chosen = (
            np.stack([approximate / 2, approximate]),
            np.stack([exact] * 2),
            np.stack([chosen] * 2),
        )
    return ScreenedMap(kind, window, approximate, exact, chosen)


def build_screen(*maps: ScreenedMap, **changes: Any) -> Screen:
    """A screen of the log-probability, of hidden states and heads."""
    shown = maps or (build_screened(), build_screened("head"))
    fields: dict[str, Any] = {
        "model": "tiny/model", "prompt": "Mount Fuji stands in old", "subject": "Mount Fuji", "tokens": TOKENS,
        "subject_range": (0, 2), "answer": " Japan", "foil": None, "metric": "log_probability",
        "direction": "restore", "corruption": "gaussian:3s", "samples": 10, "seed": 1, "high": -0.5, "low": -4.0,
        "probabilities": (0.607, 0.018), "maps": shown,
        "missed": Missed.of(np.array([2.0]), np.array([0.125]), 58, 0.25), "engine": "fast",
        "seconds": {"screen": 0.1, "verification": 0.2}, "provenance": {"weights": "abc"},
    }  # fmt: skip
    return Screen(**{**fields, **changes})
