#!/usr/bin/env python3
"""What the settings of R-ROME do on the embedded model: three landmarks moved, 33 other known facts watched.

A row a setting and fact: the new answer's probability on the prompt and two paraphrases, ‖Δ‖/‖W‖, steps, seconds, and
the watched facts, the first ones of five relations of data/facts.json, whose most probable answer is lost.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from math import exp
from typing import Any

import torch

from rome_engine.edit import Edit, editor
from rome_engine.facts import Fact
from rome_engine.model import LanguageModel
from rome_engine.resources import data_file
from rome_engine.stats import moments

PARAPHRASES = ("You can find {} in", "To visit {}, you have to travel to")
MOVES = (("The Eiffel Tower", "Rome"), ("The Acropolis", "London"), ("The Hagia Sophia", "Madrid"))
WATCHED = {"landmark-city": 10, "capital": 15, "landmark-country": 4, "language": 2, "continent": 3}
SETTINGS = ("6,2.0,0.5,2", "6,2.0,0.5,4", "8,2.0,0.5,2", "8,2.0,0.5,4")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=SETTINGS, help="layer,learning rate,w,clamp")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = LanguageModel.load()
    known = watched()
    method = editor("r-rome")
    for setting in options.settings:
        layer, rate, decay, clamp = (float(part) for part in setting.split(","))
        config: Any = method.default(model, int(layer))
        config = replace(config, value=replace(config.value, learning_rate=rate, decay=decay, clamp=clamp))
        for subject, target in MOVES:
            fact = Fact.of(f"{subject} is located in the city of", subject, target_new=target, paraphrases=PARAPHRASES)
            began = time.perf_counter()
            edit = method.fit(model, [fact], moments(model, [config.layer]), config)
            print(
                setting, subject, f"{time.perf_counter() - began:.1f} s", describe(model, edit, fact, known), flush=True
            )
    return 0


def watched() -> list[Fact]:
    """The first facts of each watched relation."""
    facts = [Fact.from_dict(record) for record in json.loads(data_file("facts.json").read_text(encoding="utf-8"))]
    return [
        fact
        for relation, count in WATCHED.items()
        for fact in [fact for fact in facts if fact.relation == relation][:count]
    ]


def describe(model: LanguageModel, edit: Edit, fact: Fact, known: Sequence[Fact]) -> str:
    assert fact.target_new is not None
    (change,) = edit.layers.values()
    with edit.applied(model):
        asked = [text.replace("{}", fact.subject) for text in (fact.prompt, *fact.paraphrases)]
        new = [
            exp(model.target_log_probability(model.tokenize(text), model.target_ids(text, fact.target_new)))
            for text in asked
        ]
        lost = [other.subject for other in known if other.subject != fact.subject and not answers(model, other)]
    shown = ", ".join(f"{value:.3f}" for value in new)
    return (
        f"steps {len(edit.provenance.losses[0])} new [{shown}] norm {change.delta_norm / change.weight_norm:.3f} "
        f"lost {len(lost)} {lost}"
    )


def answers(model: LanguageModel, fact: Fact) -> bool:
    assert fact.target_true is not None
    first = int(model.next_token_logits(model.tokenize(fact.text)).argmax())
    return first == model.target_ids(fact.text, fact.target_true)[0]


if __name__ == "__main__":
    sys.exit(main())
