"""An interrupted collection goes on where it was, and ends in the very same moments."""

from __future__ import annotations

import logging
import math
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rome_engine.errors import StatisticsError, StorageError
from rome_engine.stats import Corpus, SecondMoment, Shard, checkpoint, collect, collect_shard, moments
from rome_engine.stats.collection import Collection
from rome_engine.stats.layer_keys import LayerKeys
from tests import tiny
from tests.stats.texts import corpus

OPTIONS: dict[str, Any] = {"tokens": 1100, "length": 32, "batch_tokens": 100}
LAYERS = (0, 2)


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    return corpus(tmp_path)


@pytest.fixture(autouse=True)
def every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every batch."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", math.inf)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry a batch that was run."""
    made: list[int] = []
    real = LayerKeys.take

    def counted(keys: LayerKeys, batch: Tensor, mask: Tensor, *, add: bool) -> None:
        made.append(len(batch))
        real(keys, batch, mask, add=add)

    monkeypatch.setattr(LayerKeys, "take", counted)
    return made


def stop_at(share: float, error: type[BaseException] = KeyboardInterrupt) -> Callable[[str, float], None]:
    def stop(_message: str, now: float) -> None:
        if now >= share:
            raise error

    return stop


def same(left: dict[int, SecondMoment], right: dict[int, SecondMoment]) -> bool:
    return list(left) == list(right) and all(
        torch.equal(left[layer].matrix(), right[layer].matrix())
        and (left[layer].count, left[layer].provenance, left[layer].convergence)
        == (right[layer].count, right[layer].provenance, right[layer].convergence)
        for layer in left
    )


@pytest.mark.parametrize("share", [0.05, 0.4, 0.6, 0.97])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_it_goes_on_to_the_same_bits(
    share: float, error: type[BaseException], text: Corpus, tmp_path: Path, batches: list[int]
) -> None:
    model, path = tiny.shared("llama"), tmp_path / "c"
    whole = collect(model, text, LAYERS, **OPTIONS)
    all_batches = len(batches)
    assert whole[0].convergence is not None and whole[0].provenance is not None
    batches.clear()
    with pytest.raises(error):
        collect(model, text, LAYERS, **OPTIONS, checkpoint=path, progress=stop_at(share, error))
    first = len(batches)
    again = collect(model, text, LAYERS, **OPTIONS, checkpoint=path)
    assert same(again, whole)
    assert 0 < first < all_batches and len(batches) == all_batches  # no batch was run twice


def test_an_error_inside_a_batch_leaves_the_state_before_it(
    text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer has the batch's keys then and the other has not: such a state must never be kept."""
    model, path, real = tiny.shared("llama"), tmp_path / "c", SecondMoment.update
    calls: list[int] = []

    def fail(moment: SecondMoment, keys: Tensor) -> None:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        real(moment, keys)

    with monkeypatch.context() as patched:
        patched.setattr(SecondMoment, "update", fail)
        with pytest.raises(KeyboardInterrupt):
            collect(model, text, LAYERS, **OPTIONS, checkpoint=path)
    assert Collection.load(path).batches == 3
    assert same(collect(model, text, LAYERS, **OPTIONS, checkpoint=path), collect(model, text, LAYERS, **OPTIONS))


def test_a_killed_process(text: Corpus, tmp_path: Path) -> None:
    model, cache = tiny.language_model("llama"), tmp_path / "cache"
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    program = f"""
        import os, signal, sys
        from pathlib import Path
        from rome_engine.model.language_model import LanguageModel
        from rome_engine.stats import Corpus, checkpoint, collect, moments

        checkpoint.EVERY, checkpoint.SHARE = 0.0, float("inf")

        def progress(message, share):
            if sys.argv[1] == "kill" and share > 0.5:
                os.kill(os.getpid(), signal.SIGKILL)

        model = LanguageModel.load({str(tmp_path / "model")!r})
        corpus = Corpus({str(text.paths[0])!r})
        sampling = dict(corpus=corpus, tokens=12000, length=64)
        moments(model, [0, 2], **sampling, cache=Path(sys.argv[2]), progress=progress)
    """

    def run(how: str, into: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", textwrap.dedent(program), how, str(into)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    big = corpus(tmp_path, 400)  # the same file, with more in it
    assert big.paths == text.paths
    killed = run("kill", cache)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (left,) = cache.glob("*.unfinished")
    assert 0 < Collection.load(left).tokens < 12000
    assert run("go on", cache).returncode == 0
    assert run("go on", tmp_path / "other").returncode == 0
    names = sorted(path.name for path in cache.iterdir())
    assert len(names) == 2 and names == sorted(path.name for path in (tmp_path / "other").iterdir())
    for name in names:
        assert (cache / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


class TestInTheCache:
    def test_it_is_found_by_content_and_removed_in_the_end(
        self, text: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model, cache = tiny.shared("llama"), tmp_path / "cache"
        options = {"corpus": text, "tokens": 9000, "length": 32, "cache": cache}
        with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
            moments(model, LAYERS, **options, progress=stop_at(0.1))
        (left,) = cache.iterdir()
        assert f"kept in {left}" in caplog.text
        (cache / f".{left.name}.abc.tmp").write_bytes(b"what a killed process left")
        with pytest.raises(KeyboardInterrupt):  # another sampling has a file of its own
            moments(model, LAYERS, **{**options, "seed": 1}, progress=stop_at(0.1))
        assert len(list(cache.glob("*.unfinished"))) == 2
        found = moments(model, LAYERS, **options)
        assert not left.exists() and not list(cache.glob(".*")) and len(list(cache.glob("*.unfinished"))) == 1
        assert same(found, moments(model, LAYERS, **{**options, "cache": tmp_path / "other"}))

    def test_moments_that_cannot_be_kept_leave_the_checkpoint(
        self, text: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise StorageError("cannot write")

        with monkeypatch.context() as patched:
            patched.setattr(SecondMoment, "save", full)
            with pytest.raises(StorageError):
                moments(tiny.shared("llama"), LAYERS, corpus=text, tokens=900, cache=tmp_path / "cache")
        assert len(list((tmp_path / "cache").glob("*.unfinished"))) == 1


class TestDamage:
    def left(self, text: Corpus, path: Path, **changed: Any) -> None:
        with pytest.raises(KeyboardInterrupt):
            collect(tiny.shared("llama"), text, LAYERS, **OPTIONS | changed, checkpoint=path, progress=stop_at(0.5))

    @pytest.mark.parametrize("where", [0.0, 0.02, 0.05, 0.5, 0.99, None])
    def test_it_is_said_and_collected_from_the_start(
        self, where: float | None, text: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "c"
        self.left(text, path)
        content = bytearray(path.read_bytes())
        if where is None:
            content = content[: len(content) // 2]
        else:
            content[int(where * len(content))] ^= 0x10
        path.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            found = collect(tiny.shared("llama"), text, LAYERS, **OPTIONS, checkpoint=path)
        assert "collecting from the start" in caplog.text and str(path) in caplog.text
        assert same(found, collect(tiny.shared("llama"), text, LAYERS, **OPTIONS))

    @pytest.mark.parametrize("change", [{"batch_tokens": 200}, {"seed": 1}, {"tokens": 1099}])
    def test_another_collection_is_not_gone_on_with(
        self, change: dict[str, int], text: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.left(text, tmp_path / "c", **change)
        with caplog.at_level(logging.WARNING):
            found = collect(tiny.shared("llama"), text, LAYERS, **OPTIONS, checkpoint=tmp_path / "c")
        assert "of another collection" in caplog.text
        assert same(found, collect(tiny.shared("llama"), text, LAYERS, **OPTIONS))

    def test_a_changed_count_in_the_header_is_noticed(self, text: Corpus, tmp_path: Path) -> None:
        path = tmp_path / "c"
        self.left(text, path)
        content = path.read_bytes()
        assert content.count(b'\\"batches\\": 6') == 1
        path.write_bytes(content.replace(b'\\"batches\\": 6', b'\\"batches\\": 5'))
        with pytest.raises(StatisticsError, match="header was changed"):
            Collection.load(path)


def test_a_shard_is_its_own_checkpoint(text: Corpus, tmp_path: Path, batches: list[int]) -> None:
    model, path = tiny.shared("llama"), tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        collect_shard(model, text, LAYERS, Shard(2, 3), path, **OPTIONS, progress=stop_at(0.5))
    assert not Collection.load(path).complete
    collect_shard(model, text, LAYERS, Shard(2, 3), path, **OPTIONS)
    direct = collect_shard(model, text, LAYERS, Shard(2, 3), tmp_path / "d", **OPTIONS)
    assert same(Collection.load(path).moments(), direct.moments())
    batches.clear()
    collect_shard(model, text, LAYERS, Shard(2, 3), path, **OPTIONS)
    assert batches == []
    with pytest.raises(StatisticsError, match="shard 2/3 of another collection"):
        collect_shard(model, text, LAYERS, Shard(1, 3), path, **OPTIONS)
    with pytest.raises(StatisticsError, match="delete it"):  # and never written over
        collect_shard(model, text, LAYERS, Shard(1, 3), text.paths[0], **OPTIONS)
    assert text.paths[0].stat().st_size > 1000


def test_writing_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock, saves = [0.0], [0]

    def slow(_collection: Collection, _path: Path) -> None:
        saves[0] += 1
        clock[0] += 10.0

    monkeypatch.setattr(Collection, "save", slow)
    monkeypatch.setattr(checkpoint, "EVERY", 30.0)
    monkeypatch.setattr(checkpoint, "SHARE", 0.05)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    kept = checkpoint.Checkpoint(tmp_path / "c")
    for _ in range(1000):
        clock[0] += 1.0
        kept.offer(object.__new__(Collection))
    assert saves[0] == 1 + (1000 - 30) // 200
