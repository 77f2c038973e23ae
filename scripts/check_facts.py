#!/usr/bin/env python3
"""Measure how well the embedded model knows the facts in data/facts.json; exit 1 where one falls below the threshold.

A fact is known where the first token of its answer is the most probable next token, with at least the threshold's
probability.
"""

from __future__ import annotations

import argparse
import json
import sys

from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.resources import data_file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threshold", type=float, default=0.25)
    threshold = parser.parse_args().threshold
    model = LanguageModel.load()
    facts = [Fact.from_dict(record) for record in json.loads(data_file("facts.json").read_text(encoding="utf-8"))]
    unknown = 0
    for fact in facts:
        assert fact.target_true is not None
        probabilities = model.next_token_logits(model.tokenize(fact.prompt, fact.subject)).softmax(-1)
        answer = model.target_ids(fact.text, fact.target_true)[0]
        known = int(probabilities.argmax()) == answer and float(probabilities[answer]) >= threshold
        unknown += not known
        print(f"{'known  ' if known else 'UNKNOWN'} {float(probabilities[answer]):.3f}  {fact.text} {fact.target_true}")
    print(f"{len(facts) - unknown} of {len(facts)} facts are known at p >= {threshold}")
    return int(unknown > 0)


if __name__ == "__main__":
    sys.exit(main())
