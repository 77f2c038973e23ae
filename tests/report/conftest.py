"""Small made-up traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rome_engine.trace.result import Trace

TOKENS = ("Mount", " Fuji", " stands", " in", " old")


def build(**changes: Any) -> Trace:
    """A trace of 5 tokens and 4 layers: the subject is strong early, the last token late."""
    scores = np.full((5, 4), 0.1)
    scores[1] = [0.41, 0.52, 0.33, 0.1]
    scores[4] = [0.1, 0.08, 0.45, 0.8]
    fields: dict[str, Any] = {
        "model": "tiny/model",
        "prompt": "Mount Fuji stands in old",
        "subject": "Mount Fuji",
        "tokens": TOKENS,
        "subject_range": (0, 2),
        "answer": " Japan",
        "high": 0.8,
        "low": 0.1,
        "kind": "hidden",
        "window": 1,
        "noise_sigma": 0.3,
        "samples": 10,
        "seed": 1,
        "scores": scores,
        "seconds": 0.25,
        "engine": "fast",
        "provenance": {"preset": "rome", "versions": {"torch": "2"}},
    }
    return Trace(**{**fields, **changes})


@pytest.fixture
def make_trace() -> Callable[..., Trace]:
    """`make_trace(low=0.2)`: the trace with other fields."""
    return build


@pytest.fixture
def trace() -> Trace:
    return build()


@pytest.fixture
def three() -> list[Trace]:
    """One trace a kind."""
    return [build(kind=kind, window=1 if kind == "hidden" else 3) for kind in ("hidden", "mlp", "attn")]
