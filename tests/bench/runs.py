"""Small made-up runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rome_engine.bench.run import BEFORE, Row, Run

Figures = Mapping[str, float]


def row(name: str, figures: Figures | None, checkpoint: int = 0, batch: int = 0, position: int = 0) -> Row:
    """A record's row; None for one that failed."""
    if figures is None:
        return Row(position, name, checkpoint, batch, "failed", reason="a key is not finite")
    return Row(position, name, checkpoint, batch, "done", figures, seconds={"edit": 2.0, "score": 1.0})


def build_run(
    name: str,
    after: Sequence[Figures | None],
    before: Sequence[Figures] = (),
    *,
    rows: Sequence[Row] = (),
    total: int | None = None,
    data: str = "d" * 64,
    weights: str = "w" * 64,
    source: str | None = None,
    **configuration: Any,
) -> Run:
    """A run of records "0", "1", … with these figures, or of the rows given."""
    made = [row(str(place), figures, position=place) for place, figures in enumerate(after)]
    made += [row(str(place), figures, BEFORE, position=place) for place, figures in enumerate(before)]
    return Run(
        path=Path(f"{name}.sqlite"),
        configuration={"method": name, "data": {"sha256": data, "name": source}, "protocol": "single", **configuration},
        environment={"weights": weights, "dtype": "float32"},
        rows=(*made, *rows),
        general={},
        total=len(after) if total is None else total,
    )


def counterfact(name: str, seed: int, records: int = 40, success: float = 0.9, **more: Any) -> Run:
    """A run with ES, PS, NS, NM and KL of its own chance."""
    random = np.random.default_rng(seed)

    def figures(chance: float) -> dict[str, float]:
        return {
            "es@1": float(random.random() < chance),
            "ps@1": float(np.mean(random.random(2) < chance - 0.1)),
            "ns@1": float(np.mean(random.random(10) < 0.8)),
            "nm@1": float(random.normal(0.1, 0.05)),
            "kl@1": float(random.exponential(0.02)),
        }

    after = [figures(success) for _ in range(records)]
    return build_run(name, after, [figures(0.15) for _ in range(records)], source="counterfact.json", **more)


def sequential(name: str, batches: int = 4, each: int = 6, loss: float = 0.1) -> Run:
    """A run in batches, each scored at every checkpoint from its own on; every checkpoint costs `loss` of ES."""
    random = np.random.default_rng(3)
    rows = []
    for checkpoint in range(batches):
        for position in range((checkpoint + 1) * each):
            chance = 0.95 - loss * (checkpoint - position // each)
            figures = {part: float(random.random() < chance) for part in ("es@1", "ps@1", "ns@1")}
            rows.append(row(str(position), figures, checkpoint, position // each, position))
    return build_run(name, [], rows=rows, total=batches * each, protocol="sequential")
