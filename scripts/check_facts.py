#!/usr/bin/env python3
"""Measure data/facts.json on the embedded model; exit 1 where a fact falls below a threshold.

A fact is known where, after the prompt and without a document-start token, the first token of its answer is the most
probable next token with at least the threshold's probability, and every later token of the answer is the most probable
one too. Beyond that each fact has at least 2 paraphrases, 5 neighbourhood prompts (none of them with its subject in it)
and 2 openings; a new target that begins with another token, less probable than the true one's; and a counterfactual:
the subject of another fact of the same relation and prompt that fills as many tokens and whose answer begins with
another token (Zhang & Nanda, 2023). No id and no prompt occurs twice, and there are at least 400 facts in at least 15
relations.

How many paraphrases and neighbourhood prompts the model answers right is told, not asked. The right answer of a
neighbourhood prompt is that of the fact which has it as its prompt or paraphrase, and where none has, its own fact's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rome_engine.facts import Fact
from rome_engine.model import LanguageModel
from rome_engine.resources import data_file

MIN_FACTS, MIN_RELATIONS = 400, 15
MIN_PARAPHRASES, MIN_NEIGHBOURHOOD, MIN_OPENINGS = 2, 5, 2
Question = tuple[str, str]  # a prompt and an answer
Continuation = tuple[str, tuple[int, ...]]  # a prompt and the tokens of an answer, or only the first of them


@dataclass(frozen=True)
class Said:
    """The probability of an answer's first token; whether this one, and whether all are the most probable ones."""

    probability: float
    first: bool
    whole: bool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threshold", type=float, default=0.25, help="least probability of the answer's first token")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = LanguageModel.load(dtype="float32")
    facts = [Fact.from_dict(record) for record in json.loads(data_file("facts.json").read_text(encoding="utf-8"))]
    found = measure(model, facts, options.threshold)
    print(json.dumps(found, ensure_ascii=False, indent=1) if options.json else lines(found))
    return int(bool(found["faults"]))


def measure(model: LanguageModel, facts: Sequence[Fact], threshold: float) -> dict[str, Any]:
    """Every fact's probability and faults, the file's own faults, counts by relation, and what is only told."""
    right = {text: true(fact) for fact in facts for text in texts(fact)}
    near = {text: right.get(text, true(fact)) for fact in facts for text in fact.neighbourhood}
    again = [(text, true(fact)) for fact in facts for text in texts(fact)[1:]]
    first = {question: start(model, *question) for question in (*again, *near.items())}
    asked = [answer for fact in facts for answer in (whole(model, fact), new_start(model, fact))]
    said = ask(model, [*asked, *first.values()])
    faults = [f"{fact.id}: {fault}" for fact in facts for fault in fact_faults(model, fact, said, threshold)]
    return {
        "threshold": threshold,
        "facts": len(facts),
        "relations": dict(Counter(str(fact.relation) for fact in facts)),
        "probability": {str(fact.id): round(said[whole(model, fact)].probability, 4) for fact in facts},
        "paraphrases": {"asked": len(again), "right": sum(said[first[question]].first for question in again)},
        "neighbourhood": {"asked": len(near), "right": sum(said[first[question]].first for question in near.items())},
        "faults": [*file_faults(facts), *faults, *swap_faults(model, facts)],
    }


def true(fact: Fact) -> str:
    assert fact.target_true is not None
    return fact.target_true


def texts(fact: Fact) -> tuple[str, ...]:
    """The prompt and its paraphrases, with the subject in them."""
    return fact.text, *(template.replace("{}", fact.subject) for template in fact.paraphrases)


def start(model: LanguageModel, text: str, answer: str) -> Continuation:
    return text, model.target_ids(text, answer)[:1]


def whole(model: LanguageModel, fact: Fact) -> Continuation:
    return fact.text, model.target_ids(fact.text, true(fact))


def new_start(model: LanguageModel, fact: Fact) -> Continuation:
    return start(model, fact.text, fact.target_new or true(fact))


@torch.no_grad()
def ask(model: LanguageModel, asked: Iterable[Continuation], batch: int = 64) -> dict[Continuation, Said]:
    """What the model says, answers teacher-forced, in batches of rows of one length: nothing is padded, none run twice.

    Answers to one prompt that begin alike, or that are of one token, share a row.
    """
    rows: dict[tuple[int, ...], dict[Continuation, int]] = defaultdict(dict)
    for text, target in dict.fromkeys(asked):
        ids = model.tokenize(text).input_ids
        rows[*ids, *target[:-1]][text, target] = len(target)
    groups: dict[tuple[int, int], list[tuple[int, ...]]] = defaultdict(list)
    for row, answers in rows.items():
        groups[len(row), max(answers.values())].append(row)
    found = {}
    for (_, last), group in groups.items():
        for begin in range(0, len(group), batch):
            part = group[begin : begin + batch]
            input_ids = torch.tensor(part, device=model.device)
            output = model.module(input_ids=input_ids, use_cache=False, logits_to_keep=last).logits.float()
            for row, logits in zip(part, output, strict=True):
                found.update({answer: read(logits[-length:], answer[1]) for answer, length in rows[row].items()})
    return found


def read(logits: torch.Tensor, target: tuple[int, ...]) -> Said:
    """Of logits (tokens of the answer, vocabulary)."""
    best = logits.argmax(-1).tolist()
    return Said(float(logits[0].softmax(-1)[target[0]]), best[0] == target[0], best == list(target))


def fact_faults(model: LanguageModel, fact: Fact, said: dict[Continuation, Said], threshold: float) -> list[str]:
    """What one fact lacks."""
    answer, new = said[whole(model, fact)], said[new_start(model, fact)]
    checks = {
        f"not known: {answer}": answer.whole and answer.probability >= threshold,
        f"{len(fact.paraphrases)} paraphrases": len(set(fact.paraphrases)) >= MIN_PARAPHRASES,
        f"{len(fact.neighbourhood)} neighbourhood prompts": len(set(fact.neighbourhood)) >= MIN_NEIGHBOURHOOD,
        f"{len(fact.generation)} openings": len(set(fact.generation)) >= MIN_OPENINGS,
        "its subject is in its neighbourhood": not any(fact.subject in text for text in fact.neighbourhood),
        f"the new target {fact.target_new!r} begins like the true one": new_start(model, fact)
        != start(model, fact.text, true(fact)),
        f"the new target {fact.target_new!r} is as probable": new.probability < answer.probability,
    }
    return [fault for fault, holds in checks.items() if not holds]


def swap_faults(model: LanguageModel, facts: Sequence[Fact]) -> list[str]:
    """The facts whose counterfactual cannot stand in for the subject (symmetric token replacement)."""
    answers = {(fact.relation, fact.prompt, fact.subject): true(fact) for fact in facts}
    found = []
    for fact in facts:
        answer = answers.get((fact.relation, fact.prompt, str(fact.counterfactual)))
        if answer is None:
            found.append(f"{fact.id}: the counterfactual {fact.counterfactual!r} is no fact of its relation and prompt")
            continue
        other = replace(fact, subject=str(fact.counterfactual), target_true=answer)
        one, two = (model.tokenize(each.prompt, each.subject) for each in (fact, other))
        if one.subject_range != two.subject_range or len(one.input_ids) != len(two.input_ids):
            found.append(f"{fact.id}: the counterfactual {other.subject!r} has another number of tokens")
        if start(model, other.text, answer)[1] == start(model, fact.text, true(fact))[1]:
            found.append(f"{fact.id}: the counterfactual {other.subject!r} has the same answer")
    return found


def file_faults(facts: Sequence[Fact]) -> list[str]:
    """What the file as a whole lacks."""
    ids = Counter(fact.id for fact in facts)
    prompts = Counter((fact.prompt, fact.subject) for fact in facts)
    found = [f"{name} occurs {count} times" for name, count in (ids + prompts).items() if count > 1]
    relations = {fact.relation for fact in facts}
    if len(facts) < MIN_FACTS:
        found.append(f"{len(facts)} facts, fewer than {MIN_FACTS}")
    if len(relations) < MIN_RELATIONS:
        found.append(f"{len(relations)} relations, fewer than {MIN_RELATIONS}")
    return found


def lines(found: dict[str, Any]) -> str:
    relations = [f"{count:4d}  {name}" for name, count in found["relations"].items()]
    told = [
        f"{found[kind]['right']} of {found[kind]['asked']} {kind} prompts are answered right"
        for kind in ("paraphrases", "neighbourhood")
    ]
    faults = found["faults"]
    verdict = f"{found['facts']} facts in {len(relations)} relations, {len(faults)} faults at p >= {found['threshold']}"
    return "\n".join([*relations, *told, *faults, verdict])


if __name__ == "__main__":
    sys.exit(main())
