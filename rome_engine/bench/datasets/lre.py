"""LRE's relations (Hernandez et al. 2024, arXiv 2308.09124): a file is one relation, with its subjects and objects.

The set knows no edits, so they are made. The new target is one of the relation's other objects, drawn from the
relation's and the subject's names alone: the same whatever else is read, and another for another SEED. The first
template is the prompt, all others are paraphrases. Neighbours are up to NEIGHBOURS other subjects: those of the same
object first, as in CounterFact, then others, for many relations give every object once; each with its own object as
the answer and the new target as rival, and none whose object that is.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from rome_engine.bench.datasets.asked import record_of
from rome_engine.bench.datasets.fields import text, texts
from rome_engine.bench.datasets.scan import elements, member, with_lines
from rome_engine.bench.record import Question, Record
from rome_engine.errors import PromptError, TargetError
from rome_engine.facts import PLACE, Fact

NAME = "lre"
SEED = 0
NEIGHBOURS = 10
_NOT_ONE = "the template {!r} has not one {{}}"


@dataclass(frozen=True)
class _Relation:
    """objects: of each subject, in the file's order; a subject may have several. distinct: all of them, in order."""

    name: str
    templates: tuple[str, ...]
    objects: Mapping[str, tuple[str, ...]]
    distinct: tuple[str, ...]


def records(source: str) -> Iterator[tuple[int, Record | PromptError]]:
    """The records of a relation's JSON text and their lines, or what is wrong there.

    Raises PromptError where it is no relation, JSONDecodeError where it is no JSON.
    """
    content = json.loads(source)
    if not isinstance(content, dict) or not isinstance(content.get("samples"), list):
        raise PromptError("it is no relation of LRE: an object with name, prompt_templates and samples")
    samples = [(line, _sample(one)) for line, one in with_lines(source, elements(source, member(source, "samples")))]
    objects = _objects(samples)
    distinct = tuple(sorted({one for several in objects.values() for one in several}))
    templates, wrong = _templates(content)
    relation = _Relation(text(content, "name"), templates, objects, distinct)
    for template in wrong:
        yield _line(source, template), PromptError(_NOT_ONE.format(template))
    first: dict[str, int] = {}
    for line, sample in samples:
        if isinstance(sample, PromptError):
            yield line, sample
        elif first.setdefault(sample[0], line) != line:
            yield line, PromptError(f"the subject {sample[0]!r} is that of line {first[sample[0]]} again")
        else:
            yield line, _record(relation, *sample)


def _sample(content: Any) -> tuple[str, str] | PromptError:
    if isinstance(content, PromptError):
        return content
    if not isinstance(content, dict):
        return PromptError(f"a sample is a JSON object, not {type(content).__name__}")
    try:
        return text(content, "subject"), text(content, "object")
    except PromptError as error:
        return error


def _templates(content: Mapping[str, Any]) -> tuple[tuple[str, ...], list[str]]:
    """Those that can be used and those that cannot. Raises PromptError where none can."""
    every = tuple(dict.fromkeys((*texts(content, "prompt_templates"), *texts(content, "prompt_templates_zs"))))
    good = tuple(template for template in every if template.count(PLACE) == 1)
    wrong = [template for template in every if template not in good]
    if not good:
        raise PromptError(_NOT_ONE.format(wrong[0]) if wrong else "it has no prompt_templates")
    return good, wrong


def _line(source: str, template: str) -> int:
    """The line of a template in the file, as JSON writes it; 1 where it is written in another way."""
    written = (source.find(json.dumps(template, ensure_ascii=ascii)) for ascii in (False, True))
    return source.count("\n", 0, max(0, *written)) + 1


def _objects(samples: list[tuple[int, tuple[str, str] | PromptError]]) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for _, sample in samples:
        if not isinstance(sample, PromptError):
            found[sample[0]] += (sample[1],)
    return dict(found)


def _record(relation: _Relation, subject: str, true: str) -> Record | PromptError:
    own = {one.casefold() for one in relation.objects[subject]}
    others = [one for one in relation.distinct if one.casefold() not in own]
    if not others:
        return TargetError(f"the relation has no other object than {true!r}, which could be the new target")
    random = Random(f"{SEED}/{relation.name}/{subject}")
    new = random.choice(others)
    fact = Fact(
        relation.templates[0],
        subject,
        target_true=true,
        target_new=new,
        paraphrases=relation.templates[1:],
        relation=relation.name,
        id=f"{relation.name}/{subject}",
    )
    return record_of(fact, fact.id or "", *_neighbours(relation, fact, random))


def _neighbours(relation: _Relation, fact: Fact, random: Random) -> Iterator[Question]:
    same: list[str] = []
    others: list[str] = []
    for subject, objects in relation.objects.items():
        if subject != fact.subject and fact.target_new not in objects:
            (same if fact.target_true in objects else others).append(subject)
    drawn = random.sample(same, min(len(same), NEIGHBOURS))
    drawn += random.sample(others, min(len(others), NEIGHBOURS - len(drawn)))
    for subject in drawn:
        objects = relation.objects[subject]
        shared = sorted(objects, key=lambda one: one != fact.target_true)
        yield Question("neighbourhood", fact.prompt.replace(PLACE, subject), tuple(shared), fact.target_new)
