#!/usr/bin/env python3
"""How much faster the fast trace engine is than one forward pass a cell, on the embedded model, measured in one run.

Two prompts: the Eiffel prompt (the reference runs in full) and a few-shot prompt (the reference is extrapolated from
ten of its forward passes). Printed for each: both times, their ratio, token-layers (reference, ideal, and those run),
the share of the floor and the largest difference of the scores.

The floor is what the ideal token-layers, N·[L(L-1)/2]·[n(n+1)/2] for a hidden map, would take at the speed of a dense
product of the block's largest shape, measured here. n counts the tokens from the subject's first on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.hooks import first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import reference, wavefront
from rome_engine.trace.baseline import Baseline, run_baseline
from rome_engine.trace.corrupt import gaussian
from rome_engine.trace.plan import plan_map

EIFFEL = "The Eiffel Tower is located in the city of"
SHOTS = (
    ("The Brandenburg Gate", "Berlin"),
    ("The Statue of Liberty", "New York"),
    ("Big Ben", "London"),
    ("The Kremlin", "Moscow"),
)
FEW_SHOT = " ".join([f"{landmark} is located in the city of {city}." for landmark, city in SHOTS] + [EIFFEL])
SUBJECT = "The Eiffel Tower"
SIGMA = 0.3525921553373337
SAMPLES = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or local folder; the embedded model where left out")
    parser.add_argument("--kinds", default="hidden", help="comma-separated: hidden,mlp,attn")
    parser.add_argument("--prompts", default="eiffel,few-shot", help="comma-separated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default=None)
    parser.add_argument("--repeats", type=int, default=3, help="runs of the fast engine; the fastest counts")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = LanguageModel.load(options.model, dtype=options.dtype, device=options.device)
    results = [measure(model, name, options.kinds.split(","), options.repeats) for name in options.prompts.split(",")]
    if options.json:
        json.dump(
            {"threads": options.threads, "device": str(model.device), "dtype": options.dtype, "results": results},
            sys.stdout,
        )
    else:
        for result in results:
            print("\n".join(f"{name:>32}  {value}" for name, value in result.items()), end="\n\n")
    return 0


def measure(model: LanguageModel, name: str, kinds: list[str], repeats: int) -> dict[str, Any]:
    text = {"eiffel": EIFFEL, "few-shot": FEW_SHOT}[name]
    template = text.removesuffix(EIFFEL) + EIFFEL.replace(SUBJECT, "{}")
    prompt = model.tokenize(template, SUBJECT)
    assert prompt.subject_range is not None
    begin, end = prompt.subject_range
    embedding: Any = model.embedding
    noise = gaussian(SAMPLES, end - begin, embedding.weight.shape[1], SIGMA, seed=1)

    def baseline() -> Baseline:
        return run_baseline(model, prompt, noise, SIGMA)

    runs = baseline()
    plans = [plan_map(kind, runs.tokens, model.n_layers) for kind in kinds]
    cells = [cell for plan in plans for cell in plan.cells]
    speed = dense_speed(model)

    def fast() -> np.ndarray:
        shared = baseline()  # part of what a map costs
        return np.concatenate([wavefront.run(model, plan.cells, shared) for plan in plans])

    fast()
    seconds, table = min((timed(model, fast) for _ in range(repeats)), key=lambda run: run[0])
    run_token_layers = counted(model, fast)
    if name == "eiffel":
        chosen = cells
        whole, expected = timed(model, lambda: reference.run(model, cells, runs))
        slow = whole
    else:
        chosen = cells[:: len(cells) // 10][:10]
        part, expected = timed(model, lambda: reference.run(model, chosen, runs))
        slow = part / len(chosen) * len(cells)
    picked = [cells.index(cell) for cell in chosen]
    n, layers = runs.tokens - begin, model.n_layers
    ideal = len(kinds) * SAMPLES * (layers * (layers - 1) // 2) * (n * (n + 1) // 2)
    flops = 2 * sum(weight.numel() for weight in model.blocks[0].parameters() if weight.ndim == 2)
    return {
        "prompt": name,
        "kinds": ",".join(kinds),
        "tokens, from the subject on": f"{runs.tokens}, {n}",
        "reference s": round(slow, 2),
        "reference is": "measured" if name == "eiffel" else f"extrapolated from {len(chosen)} of {len(cells)} cells",
        "fast s": round(seconds, 2),
        "ratio": round(slow / seconds, 1),
        "token-layers, reference": len(cells) * (SAMPLES + 1) * layers * runs.tokens,
        "token-layers, ideal": ideal,
        "token-layers, run": run_token_layers,
        "dense product GFLOP/s": round(speed / 1e9, 1),
        "floor s": round(ideal * flops / speed, 2),
        "share of the floor": round(ideal * flops / speed / seconds, 3),
        "share, of what was run": round(run_token_layers * flops / speed / seconds, 3),
        "largest difference": float(np.abs(table[picked] - expected).max()),
    }


def timed(model: LanguageModel, work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def counted(model: LanguageModel, work: Callable[[], object]) -> int:
    """Tokens that went through the blocks, by the rows of their attention outputs."""
    total = 0

    def add(output: Any, _layer: str | None) -> Any:
        nonlocal total
        total += first_tensor(output).numel() // model.d_model
        return output

    with ExitStack() as stack:
        for layer in range(model.n_layers):
            stack.enter_context(Hook(model.output("attn", layer), edit_output=add, retain_output=False))
        work()
    return total


def dense_speed(model: LanguageModel) -> float:
    """FLOP/s of one dense product of the down-projection's shape, the best of many."""
    weight = model.weight(0)
    rows = torch.randn(2048, weight.shape[1], dtype=weight.dtype, device=weight.device)
    best = min(timed(model, lambda: rows @ weight.T)[0] for _ in range(30))  # type: ignore[arg-type, return-value]
    return 2 * rows.shape[0] * weight.numel() / best


if __name__ == "__main__":
    sys.exit(main())
