#!/usr/bin/env python3
"""Attribution patching against the exact maps of the fast engine, on the embedded model, in one run.

All hidden states, MLPs, attentions and heads of the Eiffel prompt, each exchanged alone. Printed: the time of one
screen of all cells (a forward and a backward pass) and of the exact maps, each without the baseline they share; their
correlations over all cells and by kind; and what share of the cells that matter is not among the top k, exactly, as
every cell is known here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from scipy import stats

from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import wavefront
from rome_engine.trace.baseline import run_baseline
from rome_engine.trace.corrupt import Corruption, Spread, draw
from rome_engine.trace.facts import default_subjects
from rome_engine.trace.gradients import SMOOTH, first_order
from rome_engine.trace.metrics import METRICS
from rome_engine.trace.plan import plan_map
from rome_engine.trace.screened import Missed

EIFFEL, SUBJECT = "The Eiffel Tower is located in the city of", "The Eiffel Tower"
KINDS = ("hidden", "mlp", "attn", "head")
Found = TypeVar("Found")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or local folder; the embedded model where left out")
    parser.add_argument("--metric", default="log_probability", choices=SMOOTH[:2])
    parser.add_argument("--direction", default="restore", choices=("restore", "corrupt"))
    parser.add_argument("--noise", default="3s")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--top", type=int, default=50)
    parser.add_argument("--share", type=float, default=0.25, help="of the strongest effect, from which a cell matters")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default=None)
    parser.add_argument("--repeats", type=int, default=3, help="runs of the screen; the fastest counts")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = LanguageModel.load(options.model, dtype=options.dtype, device=options.device)
    result = measure(model, options)
    if options.json:
        json.dump(result, sys.stdout)
    else:
        print("\n".join(f"{name:>36}  {value}" for name, value in result.items()))
    return 0


def measure(model: LanguageModel, options: argparse.Namespace) -> dict[str, Any]:
    prompt = model.tokenize(EIFFEL, SUBJECT, "auto")
    begin, end = prompt.subject_range or (0, 0)
    noise = Corruption.parse(options.noise)
    spread = Spread(model, default_subjects())
    drawn = draw(noise, spread, prompt.input_ids, end - begin, options.samples, 1)
    runs = run_baseline(model, prompt, drawn, heads=True)
    tokens, column = len(prompt.input_ids), METRICS.index(options.metric)
    heads: list[tuple[str, int | None]] = [("head", head) for head in range(model.architecture.n_heads)]
    maps = [(kind, None) for kind in KINDS if kind != "head"] + heads
    plans = [
        plan_map(kind, range(tokens), model.n_layers, 1, head=head, direction=options.direction) for kind, head in maps
    ]
    cells = [cell for plan in plans for cell in plan.cells]

    def gradients() -> dict[str, torch.Tensor]:
        return first_order(model, runs, options.metric, options.direction)

    gradients()
    fastest, changes = min((timed(model, gradients) for _ in range(options.repeats)), key=lambda run: run[0])
    slow, found = timed(model, lambda: wavefront.run(model, cells, runs, options.direction))
    # In the order of the plans: maps, then tokens, then layers.
    approximate = np.concatenate([changes[kind].numpy().ravel() for kind in KINDS])
    own = runs.scores[1:, column] if options.direction == "restore" else runs.scores[:1, column]
    exact = found[:, :, column].mean(1) - float(own.mean())
    kinds = np.array([plan.kind for plan in plans for _ in plan.cells])
    order = np.argsort(-np.abs(approximate), kind="stable")
    missed = Missed.of(
        exact[order[: options.top]], exact[order[options.top :]], len(exact) - options.top, options.share
    )
    return {
        "device": str(model.device),
        "threads": options.threads,
        "metric, direction": f"{options.metric}, {options.direction}",
        "corruption, samples": f"{noise}, {options.samples}",
        "cells": len(cells),
        "screen s": round(fastest, 3),
        "exact maps s": round(slow, 2),
        "ratio": round(slow / fastest, 1),
        "rank correlation, all cells": correlation(stats.spearmanr, approximate, exact),
        "linear correlation, all cells": correlation(stats.pearsonr, approximate, exact),
        **{
            f"rank correlation, {kind}": correlation(stats.spearmanr, approximate[kinds == kind], exact[kinds == kind])
            for kind in KINDS
        },
        "cells that matter": missed.top_matter + missed.sampled_matter,
        **{f"missed at k = {k}": share_missed(exact, order, k, options.share) for k in (10, options.top, 200)},
        f"overlap of the top {options.top}": round(overlap(exact, order, options.top), 3),
    }


def share_missed(exact: np.ndarray, order: np.ndarray, top: int, share: float) -> float | None:
    found = Missed.of(exact[order[:top]], exact[order[top:]], len(exact[top:]), share).estimate
    return None if found is None else round(found, 3)


def overlap(exact: np.ndarray, order: np.ndarray, top: int) -> float:
    """Of the cells with the largest exact effects, the share that the screen puts in front."""
    best: Sequence[int] = np.argsort(-np.abs(exact), kind="stable")[:top].tolist()
    return len({*best} & {*order[:top].tolist()}) / top


def correlation(statistic: Callable[..., Any], one: np.ndarray, other: np.ndarray) -> float:
    return round(float(statistic(one, other).statistic), 3)


def timed(model: LanguageModel, work: Callable[[], Found]) -> tuple[float, Found]:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    sys.exit(main())
