"""Merging the shards of a collection: what comes out is what one collection would have given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rome_engine.errors import StatisticsError
from rome_engine.stats.collection import Collection
from rome_engine.stats.second_moment import SecondMoment


def merge(paths: Sequence[str | Path]) -> dict[int, SecondMoment]:
    """Each layer's moment from the files of all shards of one collection, under that collection's content key.

    It equals the single collection's to rounding (1e-12); one file is in memory at a time. Its convergence compares the
    first half of the shards, by number, with all of them.

    Raises StatisticsError, naming them, for shards that are missing, there twice, unfinished, or of another collection,
    and for files that are no shards.
    """
    ordered = _checked([Path(path) for path in paths])
    whole: Collection | None = None
    for number, path in enumerate(ordered, start=1):
        part = Collection.load(path)
        if whole is None:
            whole = part
        else:
            whole.merge(part)
        if len(ordered) > 1 and number == (len(ordered) + 1) // 2:
            whole.half()
    assert whole is not None
    return whole.moments()


def _checked(paths: list[Path]) -> list[Path]:
    """The files in their shards' order."""
    if not paths:
        raise StatisticsError("no shard was given: name the files of all of them")
    first, _ = Collection.glance(paths[0])
    found: defaultdict[int, list[str]] = defaultdict(list)
    order: dict[int, Path] = {}
    for path in paths:
        plan, complete = Collection.glance(path)
        if plan.family != first.family:
            raise StatisticsError(
                f"{path} and {paths[0]} are shards of different collections (weights, layers, corpus, sampling or "
                "number of shards): merge them apart"
            )
        if not complete:
            raise StatisticsError(f"the shard {plan.shard} in {path} is unfinished: run its command again")
        found[plan.shard.number].append(str(path))
        order[plan.shard.number] = path
    twice = [
        f"{number}/{first.shard.of} ({', '.join(names)})" for number, names in sorted(found.items()) if len(names) > 1
    ]
    if twice:
        raise StatisticsError(f"shards are given twice: {'; '.join(twice)}; give each once")
    missing = [f"{number}/{first.shard.of}" for number in range(1, first.shard.of + 1) if number not in found]
    if missing:
        raise StatisticsError(f"shards are missing: {', '.join(missing)}; collect them, and give the files of all")
    return [order[number] for number in sorted(order)]
