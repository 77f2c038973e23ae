#!/usr/bin/env python3
"""How long an edit of the Eiffel fact takes on the embedded model, by phase, and as a ratio to the naive value search.

The naive search runs whole forward and backward passes of all contexts, every layer and every token, each step, as the
original code does; one of its steps is timed here in the same run and multiplied by the steps that the edit took. One
forward pass of 11 rows × 10 tokens is timed too, so that times from other machines can be scaled.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch

from rome_engine.edit import edit_fact, editor
from rome_engine.edit.context import sample
from rome_engine.facts import Fact
from rome_engine.model import LanguageModel
from rome_engine.model.hooks import Trace as Hook
from rome_engine.stats import moments

FACT = Fact.of("The Eiffel Tower is located in the city of", "The Eiffel Tower", target_new="Rome")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layer", type=int)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = LanguageModel.load()
    method = editor("r-rome")
    config: Any = method.default(model, options.layer)
    ready = moments(model, method.layers(config))

    began = time.perf_counter()
    edit = edit_fact(model, FACT, config=config, moments=ready)
    whole = time.perf_counter() - began
    steps = len(edit.provenance.losses[0])
    step = naive_step(model, config.layer)
    result = {
        "layer": config.layer,
        "edit s": round(whole, 2),
        **{f"  {phase} s": round(seconds, 2) for phase, seconds in edit.provenance.seconds.items()},
        "steps": steps,
        "naive step s": round(step, 3),
        "naive value search s": round(step * steps, 2),
        "ratio of the value search": round(step * steps / edit.provenance.seconds["value"], 1),
        "forward of 11 rows x 10 tokens s": round(forward(model), 3),
    }
    if options.json:
        json.dump(result, sys.stdout)
    else:
        print("\n".join(f"{name:>34}  {value}" for name, value in result.items()))
    return 0


def naive_step(model: LanguageModel, layer: int) -> float:
    """Seconds of one optimiser step that computes everything: the fastest of three."""
    assert FACT.target_new is not None
    target = model.target_ids(FACT.text, FACT.target_new)
    prompts = [model.tokenize(text, FACT.subject) for text in (*sample(model).prompts(FACT), "{} is a")]
    width = max(len(prompt.input_ids) for prompt in prompts) + len(target)
    rows = [[*prompt.input_ids, *target] for prompt in prompts]
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    places = torch.tensor([prompt.last_subject_token for prompt in prompts])
    delta = torch.zeros(model.d_model, requires_grad=True)

    def add(output: torch.Tensor, _layer: str | None) -> torch.Tensor:
        changed = output.clone()
        changed[torch.arange(len(rows)), places] += delta
        return changed

    times = []
    for _ in range(3):
        began = time.perf_counter()
        with Hook(model.down_projection(layer), edit_output=add, retain_output=False):
            logits = model.module(input_ids=ids, use_cache=False).logits
        logits.log_softmax(-1)[torch.arange(len(rows)), places + 1, target[0]].mean().backward()
        times.append(time.perf_counter() - began)
    return min(times)


@torch.no_grad()
def forward(model: LanguageModel) -> float:
    """Seconds of one forward pass of 11 rows of the prompt, the fastest of five."""
    ids = model.ids(*[model.tokenize(FACT.text)] * 11)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        model.module(input_ids=ids, use_cache=False)
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
