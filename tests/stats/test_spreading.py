"""Batches summed elsewhere: the moments are to the last bit those of one process, whoever dies."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replica import Replica
from rome_engine.stats import Corpus, SecondMoment, checkpoint, collect, moments, second_moment, spreading
from rome_engine.stats.batches import Batch
from rome_engine.stats.collect import Gather
from rome_engine.stats.collection import Sums
from rome_engine.stats.provenance import Provenance
from rome_engine.stats.spreading import gatherer
from tests import tiny
from tests.ray_cluster import CLUSTER, die_once, load, model_folder, running
from tests.stats.texts import corpus

LAYERS = (0, 2)
OPTIONS: dict[str, Any] = {"tokens": 1500, "length": 32, "batch_tokens": 100}


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    return corpus(tmp_path)


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of forty keys, so that a batch is several."""
    for module in (second_moment, spreading):
        monkeypatch.setattr(module, "PIECE", 40)


def beside(model: LanguageModel, seen: list[object]) -> Gather:
    """What workers do, done in this process; noted are the tokens of each batch, and when it is over."""

    def gather(about: Mapping[int, Provenance], batches: Iterable[Batch]) -> Generator[Sums, None, None]:
        work = spreading._Making(Replica.of(model, lambda: model), about)()
        try:
            for batch in batches:
                seen.append(sum(map(len, batch)))
                yield work(batch)
        finally:
            seen.append("over")

    return gather


def same(left: dict[int, SecondMoment], right: dict[int, SecondMoment]) -> bool:
    return list(left) == list(right) and all(
        torch.equal(left[layer].matrix(), right[layer].matrix())
        and (left[layer].count, left[layer].provenance, left[layer].convergence)
        == (right[layer].count, right[layer].provenance, right[layer].convergence)
        for layer in left
    )


def test_an_update_is_the_sum_of_its_pieces_to_the_last_bit() -> None:
    """Of pieces and widths that are several blocks; sums of other pieces differ in their last bits, as they should."""
    keys = torch.randn(3, 6000, 300, generator=torch.Generator().manual_seed(0))
    whole, apart, other = SecondMoment(300), SecondMoment(300), SecondMoment(300)
    for batch in keys:
        whole.update(batch)
        for moment, size in ((apart, second_moment.PIECE), (other, 3000)):
            for begin in range(0, 6000, size):
                part = SecondMoment(300)
                part.update(batch[begin : begin + size])
                packed = part.packed_sum()
                assert packed is not None
                moment.merge(SecondMoment.of_packed(packed, 300, part.count, None))
    assert torch.equal(whole.matrix(), apart.matrix()) and whole.count == apart.count == other.count
    assert not torch.equal(whole.matrix(), other.matrix())


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon"])
def test_it_changes_no_bit(family: str, text: Corpus) -> None:
    model, seen = tiny.shared(family), list[object]()
    here = collect(model, text, LAYERS, **OPTIONS)
    there = collect(model, text, LAYERS, **OPTIONS, gather=beside(model, seen))
    assert same(here, there) and here[0].convergence is not None
    assert seen[:2] == [96, 96] and seen[-1] == "over" and len(seen) == 17  # 17 batches, all but the first


def test_workers_leave_out_what_the_first_batch_tells(text: Corpus) -> None:
    model = tiny.language_model("llama")

    def scale(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        keys = args[0].clone()
        keys[:, 0] *= 50
        return (keys,)

    model.down_projection(2).register_forward_pre_hook(scale)
    here = collect(model, text, LAYERS, **OPTIONS)
    assert here[0].count > here[2].count
    assert same(here, collect(model, text, LAYERS, **OPTIONS, gather=beside(model, [])))


@pytest.mark.parametrize("share", [0.05, 0.4, 0.97])
def test_interrupted_here_or_there_it_goes_on_there_or_here(
    share: float, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))
    model, seen = tiny.shared("llama"), list[object]()
    whole, there = collect(model, text, LAYERS, **OPTIONS), {"gather": beside(model, seen)}
    told: list[float] = []

    def stop(_message: str, done: float) -> None:
        told.append(done)
        if done > share:
            raise KeyboardInterrupt

    for name, first, second in (("a", there, {}), ("b", {}, there)):
        with pytest.raises(KeyboardInterrupt):
            collect(model, text, LAYERS, **OPTIONS, **first, checkpoint=tmp_path / name, progress=stop)
        assert same(collect(model, text, LAYERS, **OPTIONS, **second, checkpoint=tmp_path / name), whole)
    # Told after each batch, none of which was run twice; the first one is run before there are workers, and these are
    # ended by an interruption.
    half = len(told) // 2
    assert told[:half] == told[half:] == sorted(told[:half])
    assert len([one for one in seen if one != "over"]) == 16
    assert seen.count("over") == (1 if share < 0.1 else 2) and (share < 0.1 or seen[len(told) // 2 - 1] == "over")


# On a cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model's folder, while a cluster runs."""
    with running(tmp_path_factory.mktemp("cache")):
        yield model_folder(tmp_path_factory.mktemp("model"))


def load_and_die(folder: Path, flag: Path) -> LanguageModel:
    """A model whose worker, if it is the first to come so far, is killed in its second batch, between two layers."""
    update, calls = SecondMoment.update, list[int]()

    def dying(moment: SecondMoment, keys: Tensor) -> None:
        calls.append(1)
        if len(calls) == 4:
            die_once(flag)
        update(moment, keys)

    SecondMoment.update = dying  # type: ignore[method-assign]
    return load(folder)


def test_what_is_kept_is_that_of_one_process_also_when_a_worker_is_killed(folder: Path, tmp_path: Path) -> None:
    model, flag, told = load(folder), tmp_path / "flag", list[float]()
    options: dict[str, Any] = {"corpus": corpus(tmp_path, 900), "tokens": 6 * 4096}
    moments(model, LAYERS, **options, cache=tmp_path / "here")
    gather = gatherer(CLUSTER, Replica.of(model, partial(load_and_die, folder, flag)))
    moments(
        model,
        LAYERS,
        **options,
        cache=tmp_path / "there",
        gather=gather,
        progress=lambda _message, share: told.append(share),
    )
    assert flag.exists() and told == [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0, 1.0]  # of each batch, and the end
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert len(names) == 2 and names == sorted(path.name for path in (tmp_path / "there").iterdir())
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
