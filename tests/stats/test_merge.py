"""Shards of one collection add up to it; anything that does not is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rome_engine.errors import StatisticsError
from rome_engine.stats import Corpus, SecondMoment, Shard, collect, collect_shard, merge
from rome_engine.stats.collection import Collection
from tests import tiny
from tests.stats.texts import corpus

OPTIONS: dict[str, Any] = {"tokens": 1500, "length": 32, "batch_tokens": 100}
LAYERS = (0, 2)


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    return corpus(tmp_path)


def shards(text: Corpus, folder: Path, of: int, family: str = "llama", **changed: Any) -> list[Path]:
    paths = [folder / f"{family}-{number}-{of}-{len(changed)}" for number in range(1, of + 1)]
    for number, path in enumerate(paths, start=1):
        collect_shard(tiny.shared(family), text, LAYERS, Shard(number, of), path, **OPTIONS | changed)
    return paths


def off(value: SecondMoment, reference: SecondMoment) -> float:
    return float((value.matrix() - reference.matrix()).norm() / reference.matrix().norm())


@pytest.mark.parametrize("of", [1, 2, 3, 40])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_all_shards_are_the_collection(of: int, family: str, text: Corpus, tmp_path: Path) -> None:
    whole = collect(tiny.shared(family), text, LAYERS, **OPTIONS)
    merged = merge(list(reversed(shards(text, tmp_path, of, family))))  # the order in which they are named is no matter
    assert list(merged) == list(whole)
    for layer, moment in merged.items():
        assert moment.count == whole[layer].count and off(moment, whole[layer]) < 1e-12
        assert moment.provenance == whole[layer].provenance  # with the key
        # Of 40 shards only the first 15 have a batch: half of the shards are all of the keys then.
        assert (moment.convergence is None) == (of == 40)


def test_shards_are_parts_of_like_size(text: Corpus, tmp_path: Path) -> None:
    parts = [
        collect_shard(tiny.shared("llama"), text, LAYERS, Shard(n, 3), tmp_path / str(n), **OPTIONS) for n in (1, 2, 3)
    ]
    counts = [part.layers[0].moment.count for part in parts]
    assert max(counts) - min(counts) < 200 and min(counts) > 300
    assert off(parts[0].layers[0].moment, parts[1].layers[0].moment) > 1e-3


def test_every_shard_judges_by_the_first_batch(text: Corpus, tmp_path: Path) -> None:
    """Else position 0 could be left out of one shard and kept in another."""
    whole = collect(tiny.shared("llama"), text, LAYERS, **OPTIONS)
    for number in (1, 2, 3):
        path = tmp_path / str(number)
        part = collect_shard(tiny.shared("llama"), text, LAYERS, Shard(number, 3), path, **OPTIONS)
        for layer, keys in part.layers.items():
            assert keys.moment.provenance == whole[layer].provenance
            assert keys.probes is not None and torch.equal(
                keys.probes, Collection.load(tmp_path / "1").layers[layer].probes
            )


def test_missing_ones_are_named(text: Corpus, tmp_path: Path) -> None:
    paths = shards(text, tmp_path, 4)
    with pytest.raises(StatisticsError, match=r"shards are missing: 2/4, 4/4;"):
        merge([paths[0], paths[2]])
    with pytest.raises(StatisticsError, match="no shard was given"):
        merge([])


def test_doubled_ones_are_named(text: Corpus, tmp_path: Path) -> None:
    paths = shards(text, tmp_path, 2)
    copy = tmp_path / "copy"
    copy.write_bytes(paths[1].read_bytes())
    with pytest.raises(StatisticsError, match=f"given twice: 2/2 .*{paths[1]}, {copy}"):
        merge([*paths, copy])


@pytest.mark.parametrize("changed", [{"seed": 1}, {"batch_tokens": 200}, {"tokens": 1400}])
def test_shards_of_another_collection(changed: dict[str, int], text: Corpus, tmp_path: Path) -> None:
    first, other = shards(text, tmp_path, 2), shards(text, tmp_path, 2, **changed)
    with pytest.raises(StatisticsError, match=f"{other[1]} and {first[0]} are shards of different collections"):
        merge([first[0], other[1]])
    more = shards(text, tmp_path, 3)
    with pytest.raises(StatisticsError, match="different collections"):
        merge([first[0], more[1]])


def test_an_unfinished_one(text: Corpus, tmp_path: Path) -> None:
    paths = shards(text, tmp_path, 2)
    part = Collection.load(paths[1])
    part.complete = False
    part.save(paths[1])
    with pytest.raises(StatisticsError, match=f"2/2 in {paths[1]} is unfinished"):
        merge(paths)


def test_no_shards(tmp_path: Path, text: Corpus) -> None:
    moment = collect(tiny.shared("llama"), text, [0], **OPTIONS)[0]
    moment.save(tmp_path / "moment")
    for path in (tmp_path / "moment", text.paths[0], tmp_path):
        with pytest.raises(StatisticsError, match="damaged"):
            merge([path])
    with pytest.raises(StatisticsError, match="there is no file"):
        merge([tmp_path / "absent"])


@pytest.mark.parametrize("given", ["0/4", "5/4", "1/0", "2", "a/b", "1/2/3", "-1/2", "²/4"])
def test_what_is_no_shard(given: str) -> None:
    with pytest.raises(StatisticsError, match="such as 2/4"):
        Shard.parse(given)


def test_shards_part_the_batches() -> None:
    for of in (1, 2, 5):
        parts = [Shard(number, of) for number in range(1, of + 1)]
        assert all(sum(part.has(batch) for part in parts) == 1 for batch in range(23))
    assert Shard.parse(" 2/4 ") == Shard(2, 4) and str(Shard(2, 4)) == "2/4"
