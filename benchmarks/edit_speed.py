#!/usr/bin/env python3
"""How long the edits of many facts take on the embedded model, by phase, the value searches together and one by one.

Three searches are timed in one run: all facts together, some of them one at a time, and a naive one, which runs whole
forward and backward passes of all contexts, every layer and every token, each step, as the original code does; of that
one step is timed a fact and multiplied by the steps that the fact took. Nothing is kept or found. The solves use second
moments of random numbers: their time does not depend on them. One forward pass of 11 rows × 10 tokens is timed too, so
that times from other machines can be scaled.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

from rome_engine.edit import editor
from rome_engine.edit.closed_form import ClosedForm, Targets
from rome_engine.edit.context import Contexts
from rome_engine.edit.question import ESSENCE
from rome_engine.edit.targets import new_target
from rome_engine.edit.value import Place
from rome_engine.edit.values import values
from rome_engine.errors import TargetError
from rome_engine.facts import Fact
from rome_engine.model import LanguageModel
from rome_engine.model.hooks import Trace, first_tensor, with_first_tensor
from rome_engine.resources import data_file
from rome_engine.stats import SecondMoment


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="memit", help="a closed-form one")
    parser.add_argument("--layer", type=int, help="the (last) edited layer")
    parser.add_argument("--facts", type=int, default=40)
    parser.add_argument("--alone", type=int, default=4, help="how many of them are searched one at a time too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = LanguageModel.load()
    result = measured(model, options)
    if options.json:
        json.dump(result, sys.stdout)
    else:
        print("\n".join(f"{name:>46}  {value}" for name, value in result.items()))
    return 0


def measured(model: LanguageModel, options: argparse.Namespace) -> dict[str, Any]:
    """Every figure by its name."""
    method = editor(options.method)
    assert isinstance(method, ClosedForm)
    config: Any = method.default(model, options.layer)
    layers = method.layers(config)
    facts = some_facts(model, options.facts)
    result: dict[str, Any] = {"method": method.name, "layers": list(layers), "facts": len(facts)}

    began = time.perf_counter()
    contexts = method.contexts(model, config)
    result["contexts s"] = lap(began)

    def search(some: Sequence[Fact]) -> Any:
        return values(model, some, contexts, layers[-1], config.value, place=method.place, store=None)

    began = time.perf_counter()
    together = search(facts)
    spent = lap(began)
    steps = [len(value.losses) for value in together]
    result |= {"values together s": spent, "  a fact": round(spent / len(facts), 3), "steps a fact": mean(steps)}

    chosen = range(0, len(facts), max(1, len(facts) // options.alone))[: options.alone]
    alone, naive, off = [], [], []
    for index in chosen:
        began = time.perf_counter()
        [value] = search([facts[index]])
        alone.append(lap(began))
        off.append(float((value.target - together[index].target).norm() / value.target.norm()))
        naive.append(naive_step(model, facts[index], contexts, layers[-1], method.place) * steps[index])
    same_facts = sum(steps[index] for index in chosen) / sum(steps) * spent / len(chosen)
    result |= {
        f"one at a time, {len(chosen)} of them, a fact": mean(alone),
        "naive, the same ones, a fact": mean(naive),
        "ratio, one at a time to together": round(mean(alone) / same_facts, 2),
        "ratio, naive to together": round(mean(naive) / same_facts, 2),
        "largest difference of a target": f"{max(off):.1e}",
    }

    moments = {layer: random_moment(model.architecture.d_mlp) for layer in layers}
    targets = [Targets(tuple(facts), contexts, tuple(together))]
    if method.one_fact:
        targets = targets[0].each()[: options.alone]
    began = time.perf_counter()
    edits = [method.solve(model, one, moments, config).edit for one in targets]
    result["keys, solves and hash s, one fact" if method.one_fact else "keys, solves and hash s"] = round(
        lap(began) / len(targets), 2
    )
    result |= {f"  {phase}": round(seconds, 2) for phase, seconds in edits[0].provenance.seconds.items()}
    result["forward of 11 rows x 10 tokens s"] = round(forward(model), 3)
    return result


def some_facts(model: LanguageModel, count: int) -> list[Fact]:
    """Facts of all relations whose new target is not yet the answer."""
    found = []
    known = [Fact.from_dict(record) for record in json.loads(data_file("facts.json").read_text(encoding="utf-8"))]
    with_target = [fact for fact in known if fact.target_new]
    for fact in with_target[:: max(1, len(with_target) // (count + 2))]:
        try:
            new_target(model, fact)
        except TargetError:
            continue
        found.append(fact)
    return found[:count]


def naive_step(model: LanguageModel, fact: Fact, contexts: Contexts, layer: int, place: Place) -> float:
    """Seconds of one optimiser step of a fact that computes everything: the faster of two."""
    target = new_target(model, fact)
    prompts = [model.tokenize(text, fact.subject) for text in (*contexts.prompts(fact), ESSENCE)]
    rows = [[*prompt.input_ids, *target] for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    number = torch.arange(len(rows))
    places = torch.tensor([prompt.last_subject_token for prompt in prompts])
    delta = torch.zeros(model.d_model, requires_grad=True)
    module = model.output("hidden", layer) if place == "hidden" else model.down_projection(layer)

    def add(output: Any, _layer: str | None) -> Any:
        changed = first_tensor(output).clone()
        changed[number, places] += delta
        return with_first_tensor(output, changed)

    times = []
    for _ in range(2):
        began = time.perf_counter()
        with Trace(module, edit_output=add, retain_output=False):
            logits = model.module(input_ids=ids, use_cache=False).logits
        logits.log_softmax(-1)[number, places + 1, target[0]].mean().backward()
        times.append(time.perf_counter() - began)
    return min(times)


@torch.no_grad()
def forward(model: LanguageModel) -> float:
    """Seconds of one forward pass, the fastest of five."""
    ids = model.ids(*[model.tokenize("The Eiffel Tower is located in the city of")] * 11)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        model.module(input_ids=ids, use_cache=False)
        times.append(time.perf_counter() - began)
    return min(times)


def random_moment(d: int) -> SecondMoment:
    """Of enough random keys to be of full rank."""
    moment = SecondMoment(d)
    moment.update(torch.randn(2 * d, d, generator=torch.Generator().manual_seed(0)))
    return moment


def lap(began: float) -> float:
    return round(time.perf_counter() - began, 2)


def mean(numbers: Sequence[float]) -> float:
    return round(sum(numbers) / len(numbers), 3)


if __name__ == "__main__":
    sys.exit(main())
