"""Records that the tiny tokenizer knows the words of."""

from __future__ import annotations

import itertools

from rome_engine.bench.record import Question, Record
from rome_engine.facts import Fact

_SUBJECTS = ("The Louvre", "The Eiffel Tower", "The Colosseum", "the Big Ben", "the Space Needle", "LeBron James")


def records(count: int) -> tuple[Record, ...]:
    """CounterFact-like ones, each with one edit, a paraphrase and two neighbours."""
    pairs = itertools.cycle(itertools.permutations(("Paris", "Rome", "London"), 2))
    prompts = itertools.cycle(("You can find {} in", "To visit {}, you have to travel to"))
    return tuple(
        _record(str(place), subject, true, new, prompt)
        for place, subject, (true, new), prompt in zip(range(count), itertools.cycle(_SUBJECTS), pairs, prompts)
    )


def _record(name: str, subject: str, true: str, new: str, prompt: str) -> Record:
    fact = Fact(prompt, subject, target_true=true, target_new=new)
    return Record(
        name,
        (fact,),
        (
            Question("efficacy", fact.text, (new,), true),
            Question("paraphrase", f"I know {subject} is in", (new,), true),
            Question("neighbourhood", "The capital of France is", (true,), new),
            Question("neighbourhood", "The capital of Japan is", (true,), new),
        ),
        (f"{subject} is",),
    )
