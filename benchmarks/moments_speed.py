#!/usr/bin/env python3
"""How long the second moments of five layers take on the embedded model: in one pass, and as five single passes.

Both are run here, one after the other, and timed from the end of their first batch to the end of the last, so that
loading, hashing and reading the corpus do not count; every second of a single pass is our own code too. The original
implementation (one pass a layer, 102,563 tokens, 2 threads: layers 5, 8, 12 in 54, 79, 120 s) is put beside them for as
many tokens, layers between those linearly interpolated. CPU seconds are given as well: they hold on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rome_engine.model import LanguageModel
from rome_engine.stats import Corpus, collect

ORIGINAL_TOKENS = 102_563
ORIGINAL = {5: 54.0, 8: 79.0, 12: 120.0}  # seconds by layer


class Watch:
    """Told after every batch: seconds, CPU seconds and tokens after the first."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._seen: list[tuple[float, float, float]] = []

    def __call__(self, _message: str, share: float) -> None:
        self._seen.append((time.perf_counter(), time.process_time(), share * self._tokens))

    def per_token(self) -> np.ndarray:
        """(seconds, CPU seconds) a token."""
        first, last = np.array(self._seen[0]), np.array(self._seen[-1])
        gone = last - first
        return np.asarray(gone[:2] / gone[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--layers", default="8,9,10,11,12", help="separated by commas")
    parser.add_argument("--tokens", type=int, default=12_288, help="of each pass; the first batch of them is not timed")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    layers = [int(layer) for layer in options.layers.split(",")]
    model, corpus = LanguageModel.load(), Corpus(options.corpus)

    def measured(some: Sequence[int]) -> np.ndarray:
        watch = Watch(options.tokens)
        collect(model, corpus, some, tokens=options.tokens, batch_tokens=options.batch_tokens, progress=watch)
        return watch.per_token()

    together = measured(layers)
    alone = np.stack([measured([layer]) for layer in layers])
    apart = alone.sum(0)
    # np.interp would be flat outside the measured layers: no figure is better than a wrong one.
    known = min(ORIGINAL) <= layers[0] and layers[-1] <= max(ORIGINAL)
    original = float(np.interp(layers, list(ORIGINAL), list(ORIGINAL.values())).sum()) if known else None
    ours = float(together[0] * ORIGINAL_TOKENS)
    result = {
        "layers": layers,
        "tokens timed a pass": options.tokens - options.batch_tokens,
        "one pass, tokens/s": round(1 / float(together[0])),
        "one pass, CPU s for 1000 tokens": round(1000 * float(together[1]), 3),
        "single passes, CPU s for 1000 tokens": (1000 * alone[:, 1]).round(3).tolist(),
        "ratio to five single passes": round(float(apart[0] / together[0]), 2),
        "ratio in CPU time": round(float(apart[1] / together[1]), 2),
        f"one pass of {ORIGINAL_TOKENS} tokens, s": round(ours, 1),
        f"single passes of {ORIGINAL_TOKENS} tokens, s": (ORIGINAL_TOKENS * alone[:, 0]).round(1).tolist(),
        "the original's single passes, sum, s": original,
        "ratio to the original": None if original is None else round(original / ours, 1),
    }
    if options.json:
        json.dump(result, sys.stdout)
    else:
        print("\n".join(f"{name:>42}  {value}" for name, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
