#!/usr/bin/env python3
"""How much faster the fast trace engine is than one forward pass a cell, on the embedded model, measured in one run.

Two prompts: the Eiffel prompt (the reference runs in full, unless --reference-cells says otherwise) and a few-shot
prompt (the reference is extrapolated from ten of its forward passes). Printed for each: both times, their ratio,
token-layers (reference, ideal, and those run), the share of the floor and the largest difference of the scores.

The floor is what no exact engine can do without, at the speed of dense products of the block's largest shape, measured
for three seconds before the run and three after it: the blocks' products of the ideal token-layers, and the unembedding
of every cell's rows. The blocks alone are a second figure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch

from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.hooks import first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import reference, wavefront
from rome_engine.trace.baseline import run_baseline
from rome_engine.trace.corrupt import Drawn, gaussian
from rome_engine.trace.plan import Cell, plan_map

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
    parser.add_argument("--kinds", default="hidden,mlp,attn", help="comma-separated")
    parser.add_argument("--prompts", default="eiffel,few-shot", help="comma-separated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default=None)
    parser.add_argument("--repeats", type=int, default=3, help="runs of the fast engine; the fastest counts")
    parser.add_argument("--fast-only", action="store_true", help="leave the reference engine out")
    parser.add_argument("--reference-cells", type=int, help="cells that the reference runs; its time is extrapolated")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = LanguageModel.load(options.model, dtype=options.dtype, device=options.device)
    results = [
        measure(model, name, options.kinds.split(","), options.repeats, not options.fast_only, options.reference_cells)
        for name in options.prompts.split(",")
    ]
    if options.json:
        json.dump(
            {"threads": options.threads, "device": str(model.device), "dtype": options.dtype, "results": results},
            sys.stdout,
        )
    else:
        for result in results:
            print("\n".join(f"{name:>32}  {value}" for name, value in result.items()), end="\n\n")
    return 0


def measure(
    model: LanguageModel, name: str, kinds: list[str], repeats: int, slow_too: bool, some: int | None
) -> dict[str, Any]:
    text = {"eiffel": EIFFEL, "few-shot": FEW_SHOT}[name]
    template = text.removesuffix(EIFFEL) + EIFFEL.replace(SUBJECT, "{}")
    prompt = model.tokenize(template, SUBJECT)
    assert prompt.subject_range is not None
    begin, end = prompt.subject_range
    embedding: Any = model.embedding
    noise = gaussian(SAMPLES, end - begin, embedding.weight.shape[1], SIGMA, seed=1)
    drawn = Drawn((prompt.input_ids,) * SAMPLES, noise, level=SIGMA)
    runs = run_baseline(model, prompt, drawn)
    cells = [cell for kind in kinds for cell in plan_map(kind, range(runs.tokens), model.n_layers).cells]

    def fast() -> np.ndarray:
        return wavefront.run(model, cells, run_baseline(model, prompt, drawn))  # the baseline is part of what it costs

    run = counted(model, fast)  # warms up
    before = dense_speed(model)
    seconds, table = min((timed(model, fast) for _ in range(repeats)), key=lambda one: one[0])
    after = dense_speed(model)
    speed, best = (before[0] + after[0]) / 2, max(before[1], after[1])
    result = {
        "prompt": name,
        "kinds": ",".join(kinds),
        "tokens, from the subject on": f"{runs.tokens}, {runs.tokens - begin}",
        "fast s": round(seconds, 2),
    }
    if slow_too:
        number = some or (len(cells) if name == "eiffel" else 10)
        chosen = cells[:: len(cells) // number][:number]
        part, expected = timed(model, lambda: reference.run(model, chosen, runs))
        slow = part / len(chosen) * len(cells)
        picked = [cells.index(cell) for cell in chosen]
        result |= {
            "reference s": round(slow, 2),
            "reference is": "measured"
            if len(chosen) == len(cells)
            else f"extrapolated from {len(chosen)} of {len(cells)} cells",
            "ratio": round(slow / seconds, 1),
            "largest difference": float(np.abs(table[picked][:, :, 0].mean(1) - expected[:, :, 0].mean(1)).max()),
        }
    token_layers, rows = ideal(model, cells, begin, runs.tokens)
    flops = 2 * sum(weight.numel() for weight in model.blocks[0].parameters() if weight.ndim == 2)
    unembedding = 2 * rows * model.d_model * model.architecture.d_vocab / speed
    blocks = token_layers * flops / speed
    return result | {
        "token-layers, reference": len(cells) * (SAMPLES + 1) * model.n_layers * runs.tokens,
        "token-layers, ideal": token_layers,
        "token-layers, run": run,
        "dense products GFLOP/s, mean": round(speed / 1e9, 1),
        "dense products GFLOP/s, best": round(best / 1e9, 1),
        "floor s": round(blocks + unembedding, 2),
        "floor, blocks alone s": round(blocks, 2),
        "share of the floor": round((blocks + unembedding) / seconds, 3),
        "share, blocks alone": round(blocks / seconds, 3),
        "share, blocks alone, at the best": round(blocks * speed / best / seconds, 3),
    }


def ideal(model: LanguageModel, cells: list[Cell], begin: int, tokens: int) -> tuple[int, int]:
    """Token-layers of an engine that runs each distinct row once, and rows to unembed.

    A cell's rows exist above its first patched layer and from its token on; cells with the same patches up to a layer
    are one row there. For a hidden map this is N·[L(L-1)/2]·[n(n+1)/2].
    """
    total, rows = 0, 0
    for token in range(begin, tokens):
        own = [cell for cell in cells if cell.token == token]
        for layer in range(model.n_layers):
            alive = {
                tuple(patch for patch in cell.patches if patch.layer <= layer)
                for cell in own
                if cell.patches[0].layer < layer
            }
            total += len(alive) * (tokens - token)
        rows += len(own)
    return total * SAMPLES, rows * SAMPLES


def timed(model: LanguageModel, work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def counted(model: LanguageModel, work: Callable[[], object]) -> int:
    """Tokens that went through the blocks, by the rows of their attention outputs; hooked blocks run their own code."""
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


def dense_speed(model: LanguageModel, seconds: float = 3.0) -> tuple[float, float]:
    """FLOP/s of dense products of the down-projections' shape, one after another: their mean, and the best of them.

    A processor holds its best for milliseconds only; what work of many seconds is compared with is the mean.
    """
    weights = [model.weight(layer) for layer in range(model.n_layers)]
    rows = torch.randn(2048, weights[0].shape[1], dtype=weights[0].dtype, device=weights[0].device)
    times: list[float] = []
    while sum(times) < seconds:
        times.append(timed(model, partial(torch.matmul, rows, weights[len(times) % len(weights)].T))[0])
    flops = 2 * rows.shape[0] * weights[0].numel()
    return flops * len(times) / sum(times), flops / min(times)


if __name__ == "__main__":
    sys.exit(main())
