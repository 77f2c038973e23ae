#!/usr/bin/env python3
"""What a second moment's token budget is worth: how much C⁻¹k̄ still moves, and R-ROME's edits, against tokens.

One pass collects the largest budget; the moment is looked at on the way at each smaller one, so that the budgets are
nested prefixes of one sample. A budget is read up to the end of the batch that reaches it. The facts' values v* do not
depend on C and are searched once; per budget only the rank-one update is solved, each fact alone, and scored. Where C
is singular to working precision (too few tokens), --jitter times the mean of its diagonal is added, which the row says;
nothing is added elsewhere. The guard's limits are lifted: a bad update is to be seen, not refused.

Columns: turned and stretched as in `rome_engine.stats.Convergence`, of the facts' mean keys k̄, from the budget before
to this one and from this one to the largest; norm ‖Δ‖/‖W‖; ES, PS, NS and magnitudes as in `rome_engine.bench`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rome_engine.bench.counterfact import CaseScores, score, summary
from rome_engine.edit import editor
from rome_engine.edit.guard import Guard
from rome_engine.edit.key import Subjects
from rome_engine.errors import StatisticsError
from rome_engine.facts import Fact
from rome_engine.model import LanguageModel
from rome_engine.resources import data_file
from rome_engine.stats import Convergence, Corpus, Sampling, SecondMoment
from rome_engine.stats.collect import plan_for, steps
from rome_engine.stats.collection import Collection

BUDGETS = "2k,5k,10k,20k,50k,100k,200k,500k,1M,2M"
BATCH_TOKENS = 1024  # small budgets end at a batch's end
SHOWN = ("es", "ps", "ns", "em", "pm", "nm")


@dataclass(frozen=True)
class Row:
    """One budget: tokens read, keys, the jitter used, C⁻¹k̄ (a column a fact), the edits' mean norm, their scores."""

    tokens: int
    keys: int
    jitter: float
    directions: Tensor
    norm: float
    scores: list[CaseScores]


class Study:
    """The facts with their values and mean keys, and what a moment makes of them."""

    def __init__(self, model: LanguageModel, facts: Sequence[Fact], layer: int | None, jitter: float) -> None:
        self.model, self.jitter = model, jitter
        self.method: Any = editor("r-rome")
        guard = Guard(min_denominator=0.0, min_reach=-inf, max_norm=inf)
        self.config: Any = replace(self.method.default(model, layer), guard=guard)
        self.layer = int(self.config.layer)
        targets = self.method.search(model, facts, self.config)
        self.targets = targets.each()
        self.keys = Subjects(model, facts, targets.contexts).mean(self.layer).keys.T

    def row(self, tokens: int, moment: SecondMoment) -> Row:
        """The edits that this moment makes of the facts, each alone, and their scores."""
        jitter = 0.0
        try:
            directions = moment.solve(self.keys)
        except StatisticsError:
            jitter = self.jitter
            directions = moment.solve(self.keys, jitter=jitter)
        config = replace(self.config, jitter=jitter)
        scores, norms = [], []
        for target in self.targets:
            edit = self.method.solve(self.model, target, {self.layer: moment}, config).edit
            norms.append(edit.layers[self.layer].delta_norm / edit.layers[self.layer].weight_norm)
            with edit.applied(self.model):
                scores += score(self.model, target.facts)
        return Row(tokens, moment.count, jitter, directions, sum(norms) / len(norms), scores)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, action="append", required=True, help="a text file; may be given again")
    parser.add_argument("--budgets", default=BUDGETS, help=f"in tokens ({BUDGETS})")
    parser.add_argument("--facts", type=int, default=20, help="taken in turn from the relations of data/facts.json")
    parser.add_argument("--layer", type=int, help="without it the one that R-ROME edits")
    parser.add_argument("--jitter", type=float, default=1e-6, help="where C is singular, a share of its mean diagonal")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, corpus = LanguageModel.load(), Corpus(*options.corpus)
    began = time.perf_counter()
    study = Study(model, chosen(options.facts), options.layer, options.jitter)
    tell(f"{len(study.targets)} values at layer {study.layer}", began)
    rows = []
    for collection in at_budgets(model, corpus, study.layer, [number(text) for text in options.budgets.split(",")]):
        rows.append(study.row(collection.tokens, collection.layers[study.layer].moment))
        tell(f"{collection.tokens} tokens", began)
    records = [record(row, rows[max(0, index - 1)], rows[-1]) for index, row in enumerate(rows)]
    if options.json:
        json.dump({"layer": study.layer, "corpus": corpus.name, "budgets": records}, sys.stdout)
        return 0
    print(" ".join(f"{name:>10}" for name in records[0]))
    for one in records:
        print(" ".join(f"{value:>10.3g}" if isinstance(value, float) else f"{value:>10}" for value in one.values()))
    return 0


def chosen(count: int) -> list[Fact]:
    """So many facts with all that is scored, one of each relation after another."""
    by_relation: defaultdict[str | None, list[Fact]] = defaultdict(list)
    for entry in json.loads(data_file("facts.json").read_text(encoding="utf-8")):
        fact = Fact.from_dict(entry)
        if fact.target_new and fact.target_true and fact.paraphrases and fact.neighbourhood:
            by_relation[fact.relation].append(fact)
    return [fact for fact in chain(*zip_longest(*by_relation.values())) if fact is not None][:count]


def at_budgets(model: LanguageModel, corpus: Corpus, layer: int, budgets: Sequence[int]) -> Iterator[Collection]:
    """One collection, yielded at each budget on its way, and where the corpus ends if that is before the last."""
    waiting = sorted(budgets)
    collection = Collection(plan_for(model, corpus, [layer], Sampling(waiting[-1]), BATCH_TOKENS))
    for now in steps(model, corpus, collection):
        if waiting and now.tokens >= waiting[0]:
            yield now
            waiting = [budget for budget in waiting if budget > now.tokens]
    if waiting:
        yield collection


def record(row: Row, before: Row, last: Row) -> dict[str, Any]:
    """A row for people and for JSON."""
    since = Convergence.between(before.directions, row.directions, before.keys, row.keys)
    left = Convergence.between(row.directions, last.directions, row.keys, last.keys)
    means = summary(row.scores).means
    return {
        "tokens": row.tokens,
        "keys": row.keys,
        "jitter": row.jitter,
        "turned": since.turned,
        "stretched": since.stretched,
        "to turn": left.turned,
        "norm": row.norm,
        **{name: means[name] for name in SHOWN},
    }


def number(text: str) -> int:
    """2000 of "2k"."""
    scale = {"k": 1_000, "M": 1_000_000}.get(text[-1], 1)
    return int(text.rstrip("kM")) * scale


def tell(what: str, began: float) -> None:
    """Say on stderr how far it is."""
    print(f"{what} after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
