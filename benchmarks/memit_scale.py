#!/usr/bin/env python3
"""MEMIT's keys and solves for very many facts, with given targets: seconds and the process's peak memory.

Each number of facts is a process of its own. The targets are not searched: a fact's is what the last edited layer has
at its subject, plus a random vector half as long. Every layer's keys are computed on the model with the changes below
in force, over all contexts, as in a real edit.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from rome_engine.edit.closed_form import Targets
from rome_engine.edit.key import Subjects
from rome_engine.edit.methods import editor
from rome_engine.edit.value import Value
from rome_engine.fact_files import read_facts
from rome_engine.model import LanguageModel
from rome_engine.stats import moments


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a file of facts")
    parser.add_argument("--facts", default="100,1000,10000", help="how many, a process for each")
    parser.add_argument("--method", default="memit")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    numbers = [int(part) for part in options.facts.split(",")]
    if len(numbers) == 1:
        print(json.dumps(measured(options.data, numbers[0], options.method, options.threads)), flush=True)
        return 0
    for number in numbers:
        settings = ["--facts", str(number), "--method", options.method, "--threads", str(options.threads)]
        subprocess.run([sys.executable, __file__, "--data", options.data, *settings], check=True)
    return 0


def measured(path: Path, number: int, method: str, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    model, chosen = LanguageModel.load(), editor(method)
    config = chosen.default(model)
    layers = chosen.layers(config)
    found = moments(model, layers)
    facts = tuple(fact for _, fact in read_facts(path).facts)[:number]
    contexts = chosen.contexts(model, config)
    begun = peak()
    targets = Targets(facts, contexts, given(Subjects(model, facts, contexts).bare(layers[-1]).hidden))
    began = time.perf_counter()
    solution = chosen.solve(model, targets, found, config)
    spent = solution.edit.provenance.seconds
    keys = sum(part.nbytes for part in solution.keys.values()) / len(solution.keys)
    return {
        "facts": len(facts),
        "keys_s": round(spent["keys"], 1),
        "solves_s": round(spent["solve"], 1),
        "all_s": round(time.perf_counter() - began, 1),
        "peak_mib": round(peak() / 2**20),
        "peak_before_mib": round(begun / 2**20),
        "one_layers_keys_mib": round(keys / 2**20, 1),
        "targets_mib": round(targets.wanted().nbytes / 2**20, 1),
        "rank": solution.edit.rank,
    }


def given(hidden: torch.Tensor) -> tuple[Value, ...]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(hidden.shape, generator=generator)
    deltas = 0.5 * drawn * hidden.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)
    return tuple(
        Value(state + delta, delta, state, (0.0,), False, 0.0) for state, delta in zip(hidden, deltas, strict=True)
    )


def peak() -> int:
    """Bytes the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
