#!/usr/bin/env python3
"""How many records an hour a single-edit benchmark does, against one record at a time, on the embedded model.

The run is of CounterFact records (--data FILE) with ES, PS, NS, EM, PM, NM and GE: 13 prompts × 2 targets
and 10 generations of 100 tokens a record, nothing kept from before. One at a time, on the first --alone of the same
records and with the same contexts and settings: the edit is searched for this fact alone, put into the weights, all
prompts are run with both targets in one batch (whole forward passes, all logits), the generations in another (plain
transformers), and the weights are restored. The original's own search computes every layer and token at each step;
of that one step is timed a record and multiplied by the steps that the fact took, for a second ratio.
The untouched model's scores are left out on both sides. Teacher-forced figures are compared between the two.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from edit_speed import naive_step

from rome_engine.bench.datasets import read
from rome_engine.bench.metrics import named
from rome_engine.bench.plan import grouped
from rome_engine.bench.record import Record
from rome_engine.bench.untouched import Untouched
from rome_engine.bench.work import Work
from rome_engine.edit import editor
from rome_engine.edit.closed_form import ClosedForm
from rome_engine.model import LanguageModel
from rome_engine.stats import moments

METRICS = ("es", "ps", "ns", "em", "pm", "nm", "ge")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CounterFact records")
    parser.add_argument("--method", default="rome", help="a closed-form one of one layer whose moments are shipped")
    parser.add_argument("--records", type=int, default=32)
    parser.add_argument("--alone", type=int, default=4, help="how many of them are done one at a time too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = measured(LanguageModel.load(dtype="float32"), options, Path(folder))
    if options.json:
        json.dump(result, sys.stdout)
    else:
        print("\n".join(f"{name:>52}  {value}" for name, value in result.items()))
    return 0


def measured(model: LanguageModel, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every figure by its name."""
    method = editor(options.method)
    assert isinstance(method, ClosedForm)
    config: Any = method.default(model)
    config = replace(config, guard=replace(config.guard, policy="warn"))
    records = read(None, options.data).records[: options.records]
    with Untouched(model, folder / "answers") as untouched:
        collected = moments(model, method.layers(config))
        work = Work.of(model, method, collected, config, named(METRICS), untouched, store=None)
        numbered = tuple(enumerate(records))
        for group in grouped(numbered):
            work.before(group)
        began = time.perf_counter()
        rows = [row for group in grouped(numbered) for row in work.single(group)]
        together = (time.perf_counter() - began) / len(rows)
        assert all(row.status == "done" for row in rows), [row.reason for row in rows]
        alone = [one_at_a_time(work, record) for record in records[: options.alone]]
    naive = []
    for record, found in zip(records, alone, strict=False):
        step = naive_step(model, record.edits[0], work.contexts, config.layer, method.place)
        naive.append(sum(found["seconds"].values()) - found["seconds"]["edit"] + step * found["steps"])
    off = max(
        abs(row.figures[name] - found["figures"][name])
        for row, found in zip(rows, alone, strict=False)
        for name in found["figures"]
    )
    parts = {part: sum(row.seconds[part] for row in rows) / len(rows) for part in rows[0].seconds}
    plain = sum(sum(found["seconds"].values()) for found in alone) / len(alone)
    return {
        "method": method.name,
        "records": len(rows),
        "a record s": round(together, 2),
        **{f"  {part}": round(seconds, 2) for part, seconds in parts.items()},
        "records an hour": round(3600 / together),
        "one at a time, records": len(alone),
        "one at a time, a record s": round(plain, 2),
        **{
            f"  {part} ": round(sum(one["seconds"][part] for one in alone) / len(alone), 2)
            for part in alone[0]["seconds"]
        },
        "one at a time with the naive search, a record s": round(sum(naive) / len(naive), 2),
        "ratio to one at a time, our own search": round(plain / together, 2),
        "ratio to one at a time, naive search": round(sum(naive) / len(naive) / together, 2),
        "largest difference of a teacher-forced figure": f"{off:.1e}",
    }


def one_at_a_time(work: Work, record: Record) -> dict[str, Any]:
    """A record by the original recipe: its figures, and the seconds of each part."""
    model, seconds, last = work.model, {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        seconds[name] = time.perf_counter() - last
        last = time.perf_counter()

    [edit] = work.edits([record])
    lap("edit")
    handle = edit.apply_(model)
    questions = [(one.text, target) for one in record.questions for target in (one.answers[0], one.rival or "")]
    nll = scored(model, questions)
    lap("score")
    generated(model, record.generation)
    lap("generate")
    handle.undo()
    lap("restore")
    figures: dict[str, list[float]] = {}
    for place, question in enumerate(record.questions):
        name = {"efficacy": "es@1", "paraphrase": "ps@1", "neighbourhood": "ns@1"}[question.role]
        own, rival = nll[2 * place], nll[2 * place + 1]
        figures.setdefault(name, []).append(float(own < rival))
        figures.setdefault(name.replace("s@", "m@"), []).append(
            float(torch.tensor(-own).exp() - torch.tensor(-rival).exp())
        )
    means = {name: sum(part) / len(part) for name, part in figures.items()}
    return {"figures": means, "seconds": seconds, "steps": len(edit.provenance.losses[0])}


@torch.no_grad()
def scored(model: LanguageModel, questions: Sequence[tuple[str, str]]) -> list[float]:
    """The mean NLL of each target, all rows in one batch."""
    prompts = [model.tokenize(text).input_ids for text, _ in questions]
    targets = [model.target_ids(text, target) for text, target in questions]
    rows = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    logits = model.module(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    return [
        -float(sum(logits[row, len(prompt) - 1 + at, token] for at, token in enumerate(target)) / len(target))
        for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True))
    ]


def generated(model: LanguageModel, openings: Sequence[str]) -> None:
    """100 tokens after each opening, sampled among five, in one batch."""
    model.generate([model.tokenize(text) for text in openings], 100, top_k=5, min_tokens=100)


if __name__ == "__main__":
    sys.exit(main())
