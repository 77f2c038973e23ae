"""RippleEdits (Cohen et al. 2024, arXiv 2307.12976): popular, random and recent facts, and what must follow from them.

A record states its edit as a sentence, "The mother tongue of Ada is Welsh.", and names subject and target by Wikidata's
numbers only; so the sentence is taken apart by the ways in which the set phrases relations. Where a name within it
allows two ways, the target's name, given in the tests, decides; where that is missing the record is malformed.

Specificity and forgetfulness (other answers of a relation with several) are locality, the rest is portability. A test's
queries are asked one by one, and any name of any of a query's answers is an answer; the authors want one of each. The
conditions under which the authors count a test, that the model knew what it rests on
before the edit, are not applied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rome_engine.bench.datasets.asked import record_of
from rome_engine.bench.datasets.dataset import Schema
from rome_engine.bench.datasets.fields import mapping, objects, text, texts
from rome_engine.bench.record import Question, Record
from rome_engine.errors import PromptError
from rome_engine.facts import PLACE, Fact

KINDS = {
    "Relation_Specificity": "locality",
    "Relation_Specifity": "locality",  # as the set's description spells it
    "Forgetfulness": "locality",
    "Logical_Generalization": "portability",
    "Subject_Aliasing": "portability",
    "Compositionality_I": "portability",
    "Compositionality_II": "portability",
}

# What stands right before the target, and around the subject in what is before that.
_VERB = re.compile(r" (?:is followed by|is|are|follows) ")
_OF = "citizenship|birth|death|burial|state|government|work"
_PHRASES = tuple(
    re.compile(phrase)
    for phrase in (
        r"(.+) (?:follows|is followed by)",
        r"The .+? which (.+) (?:is associated with|is a member of|is part of|is the capital of|plays in) is",
        r"The name of the award (.+) won is",
        r"The number of children (.+) has is",
        r"The name of the position held by (.+) is",
        r"The name of the (?:currency|anthem that is most likely to be performed) in (.+) is",
        rf"The (?:names? of the )?(?!names? )[a-z ]+?(?: of (?:{_OF}))? of (.+) (?:is|are)",
    )
)


def record(content: Mapping[str, Any], id: str) -> Record:
    """One edit: efficacy, locality:KIND and portability:KIND."""
    edit = mapping(content, "edit")
    sentence = text(edit, "prompt")
    fact = _taken_apart(sentence, _target_names(content))
    before = mapping(edit, "original_fact") or mapping(edit, "previous_fact")
    true = _rest(text(before, "prompt"), fact.text) if before else None
    fact = replace(fact, target_true=true, relation=(*texts(edit, "relation"), None)[0])
    return record_of(fact, id, *_tests(content))


def _taken_apart(sentence: str, names: frozenset[str]) -> Fact:
    """Subject, template and new target of an edit's sentence; `names` are those that the target goes by."""
    said = sentence.removesuffix(".")
    found = [fact for verb in _VERB.finditer(said) if (fact := _split(said, verb.end()))]
    found = [fact for fact in found if fact.target_new in names] or found
    if len(found) != 1:
        how = "in no known way" if not found else "in more than one way"
        raise PromptError(f"the edit {sentence!r} can be read as subject, relation and target {how}")
    return found[0]


def _split(said: str, end: int) -> Fact | None:
    stem = said[:end].rstrip()
    for phrase in _PHRASES:
        match = phrase.fullmatch(stem)
        if match:
            prompt = stem[: match.start(1)] + PLACE + stem[match.end(1) :]
            return Fact(prompt, match[1], target_new=said[end:].strip())
    return None


def _rest(sentence: str, stem: str) -> str | None:
    """What a sentence says after a stem; None where it says nothing, as of an answer that nobody knew."""
    return sentence.removeprefix(stem).removesuffix(".").strip() or None if sentence.startswith(stem) else None


def _target_names(content: Mapping[str, Any]) -> frozenset[str]:
    """What the tests call the edit's target."""
    target = mapping(content, "edit").get("target_id")
    return frozenset(
        name
        for kind in KINDS
        for query in _queries(content, kind)
        if query.get("query_type") != "two_hop" and query.get("target_ids") in ([target], target)
        for name in _answers(query)
    )


def _queries(content: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    for test in objects(content, kind):
        yield from objects(test, "test_queries")


def _tests(content: Mapping[str, Any]) -> Iterator[Question]:
    for kind, role in KINDS.items():
        for query in _queries(content, kind):
            answers = _answers(query)
            if answers:  # entities without a name have none
                yield Question(f"{role}:{kind}", text(query, "prompt"), answers)


def _answers(query: Mapping[str, Any]) -> tuple[str, ...]:
    """Every name of every answer; single letters, which anything begins with, are none (as in the authors' code)."""
    named = (name for one in objects(query, "answers") for name in (*texts(one, "value"), *texts(one, "aliases")))
    return tuple(dict.fromkeys(name for name in named if len(name) > 1 or name.isdigit()))


SCHEMA = Schema("ripple", ("edit",), record)
