"""Which facts of a file an edit can be made of, all together: what contradicts or repeats another one is told first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import replace

from rome_engine.errors import PromptError
from rome_engine.fact_files.reading import FactFile, Malformed
from rome_engine.facts import Fact

SHOWN = 10


def editable(file: FactFile) -> FactFile:
    """The file with its facts that cannot be edited together among the malformed ones.

    Those are facts without a `target_new`; all facts that give one subject two targets for one prompt or relation; and
    the second and later ones of facts that say the same. White space around a text makes no difference.
    """
    lines = dict(file.lines)
    reasons: dict[int, str] = {number: "it has no target_new" for number, fact in file.facts if not _target(fact)}
    wanted = [(number, fact) for number, fact in file.facts if number not in reasons]
    for number, other, fact in _conflicts(wanted):
        reasons.setdefault(
            number,
            f"the target of {fact.subject!r} is {_target(fact)!r} here and another one in "
            f"{Malformed(other, '', lines.get(other)).place}",
        )
    for number, other in _repeated(wanted):
        reasons.setdefault(number, f"it says the same as {Malformed(other, '', lines.get(other)).place}")
    return _moved(file, reasons)


def check_usable(file: FactFile, remedy: str) -> None:
    """Raises PromptError where a file has malformed records: how many, the first of them, and the remedy."""
    if not file.malformed:
        return
    shown = "; ".join(f"{one.place}: {one.reason}" for one in file.malformed[:SHOWN])
    more = f"; and {len(file.malformed) - SHOWN} more" if len(file.malformed) > SHOWN else ""
    raise PromptError(
        f"{len(file.malformed)} of the {file.records} records of {file.name} cannot be used: {shown}{more} ({remedy})"
    )


def _target(fact: Fact) -> str:
    return (fact.target_new or "").strip()


def _asked(fact: Fact) -> Iterator[Hashable]:
    """What a fact has only one answer to."""
    subject = fact.subject.strip()
    yield "prompt", subject, fact.prompt.strip()
    if fact.relation is not None:
        yield "relation", subject, fact.relation.strip()


def _conflicts(facts: Iterable[tuple[int, Fact]]) -> Iterator[tuple[int, int, Fact]]:
    """Each fact of another target than one with the same question, and the number of the first such."""
    same: dict[Hashable, list[tuple[int, Fact]]] = defaultdict(list)
    for number, fact in facts:
        for question in _asked(fact):
            same[question].append((number, fact))
    for group in same.values():
        for number, fact in group:
            others = (other for other, one in group if _target(one) != _target(fact))
            other = next(others, None)
            if other is not None:
                yield number, other, fact


def _repeated(facts: Iterable[tuple[int, Fact]]) -> Iterator[tuple[int, int]]:
    """Each fact that was said before, and the number of the first one that says it."""
    said: dict[Hashable, int] = {}
    for number, fact in facts:
        first = said.setdefault((fact.prompt.strip(), fact.subject.strip(), _target(fact)), number)
        if first != number:
            yield number, first


def without(file: FactFile, reasons: Mapping[int, str]) -> FactFile:
    """The file with the facts at these places among the malformed records, for these reasons."""
    return _moved(file, {file.facts[place][0]: reason for place, reason in reasons.items()})


def _moved(file: FactFile, reasons: Mapping[int, str]) -> FactFile:
    """The same for facts of these numbers."""
    lines = dict(file.lines)
    moved = [Malformed(number, reason, lines.get(number)) for number, reason in reasons.items()]
    return replace(
        file,
        facts=tuple(one for one in file.facts if one[0] not in reasons),
        malformed=tuple(sorted((*file.malformed, *moved), key=lambda one: one.number)),
    )
