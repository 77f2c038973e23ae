"""Finding second moments by content: shipped, cached, collected; and never anything else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_engine.errors import StatisticsError, StorageError
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import Corpus, SecondMoment, moments, store, stored, wanted_keys
from rome_engine.stats.store import shipped_name
from tests import tiny
from tests.stats.texts import corpus

OPTIONS: dict[str, Any] = {"tokens": 400, "length": 32}


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    return corpus(tmp_path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty; nothing is shipped for the tiny models."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rome_engine" / "second_moments"


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The layers of each collection that is made."""
    made: list[list[int]] = []
    real = store.collect

    def counted(model: LanguageModel, corpus: Corpus, layers: list[int], **options: Any) -> dict[int, SecondMoment]:
        made.append(list(layers))
        return real(model, corpus, layers, **options)

    monkeypatch.setattr(store, "collect", counted)
    return made


def test_collected_once_for_all_missing_layers_then_cached(
    text: Corpus, cache: Path, collections: list[list[int]]
) -> None:
    model = tiny.shared("llama")
    first = moments(model, [2, 0], corpus=text, **OPTIONS)
    again = moments(model, [0, 1, 2], corpus=text, **OPTIONS)
    assert collections == [[0, 2], [1]]
    assert list(first) == [0, 2] and list(again) == [0, 1, 2]
    for layer in first:
        assert torch.equal(first[layer].matrix(), again[layer].matrix())
        assert first[layer].provenance == again[layer].provenance
    assert len(list(cache.iterdir())) == 3


def test_without_a_corpus_the_cached_one_of_most_keys(text: Corpus, cache: Path, collections: list[list[int]]) -> None:
    model = tiny.shared("llama")
    for tokens in (300, 500, 400):
        moments(model, [1], corpus=text, **{**OPTIONS, "tokens": tokens})
    about = moments(model, [1])[1].provenance
    assert about is not None and about.tokens == 500
    assert len(collections) == 3


@pytest.mark.parametrize("change", [{"tokens": 401}, {"length": 33}, {"seed": 1}, {"corpus": 119}])
def test_another_sampling_or_text_is_collected_anew(
    change: dict[str, int], text: Corpus, cache: Path, collections: list[list[int]], tmp_path: Path
) -> None:
    model = tiny.shared("llama")
    moments(model, [1], corpus=text, **OPTIONS)
    if "corpus" in change:
        moments(model, [1], corpus=corpus(tmp_path, change["corpus"], "other.txt"), **OPTIONS)
    else:
        moments(model, [1], corpus=text, **{**OPTIONS, **change})
    assert len(collections) == 2


def test_by_its_key_the_very_one_is_found(text: Corpus, cache: Path, collections: list[list[int]]) -> None:
    model = tiny.shared("llama")
    keys = wanted_keys(model, [1, 2], text, **OPTIONS)
    assert collections == []
    small = moments(model, [1, 2], corpus=text, **OPTIONS)
    moments(model, [1, 2], corpus=text, **{**OPTIONS, "tokens": 500})
    assert keys == {layer: moment.provenance.key for layer, moment in small.items() if moment.provenance is not None}
    found = stored(model, keys)
    assert list(found) == [1, 2] and len(collections) == 2
    for layer in found:
        assert torch.equal(found[layer].matrix(), small[layer].matrix())
    for path in cache.glob(f"*-layer-002-{keys[2][:16]}*"):
        path.unlink()
    with pytest.raises(StatisticsError, match=rf"{keys[2][:16]} of layer 2 are neither .* stats --layers 2 --corpus"):
        stored(model, keys)


def test_a_name_says_nothing(text: Corpus, cache: Path, collections: list[list[int]]) -> None:
    """The same name with other weights gets nothing; another name with the same weights gets all."""
    model = tiny.language_model("llama")
    moments(model, [1], corpus=text, **OPTIONS)
    renamed = LanguageModel(model.module, model.tokenizer, "another")
    assert moments(renamed, [1])[1].count > 0
    model.weight(3)[0, 0] += 1e-3
    with pytest.raises(StatisticsError, match="layer 1 for these weights of llama"):
        moments(model, [1])
    moments(model, [1], corpus=text, **OPTIONS)
    assert len(collections) == 2


def test_nothing_there_and_no_corpus(cache: Path) -> None:
    with pytest.raises(StatisticsError, match=r"layers 1, 2 .*e\.g\. `rome-engine stats --corpus FILE --layers 1,2`"):
        moments(tiny.shared("llama"), [2, 1])
    assert not cache.exists()


class TestShipped:
    @pytest.fixture
    def data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        def find(name: str) -> Path:
            if not (tmp_path / "data" / name).is_file():
                raise StorageError("missing")
            return tmp_path / "data" / name

        monkeypatch.setattr(store, "data_file", find)
        return tmp_path / "data"

    def ship(self, data: Path, model: LanguageModel, text: Corpus, layer: int) -> SecondMoment:
        made = store.collect(model, text, [layer], **OPTIONS)[layer]
        made.save(data / shipped_name(model.weight_hash(), layer))
        return made

    def test_they_come_first_and_are_never_written_to_the_cache(
        self, data: Path, text: Corpus, cache: Path, collections: list[list[int]]
    ) -> None:
        model = tiny.shared("llama")
        made = self.ship(data, model, text, 1)
        moments(model, [1], corpus=text, **{**OPTIONS, "tokens": 900})
        assert moments(model, [1])[1].count == made.count
        assert moments(model, [1], corpus=text, **OPTIONS)[1].count == made.count
        assert len(collections) == 2 and len(list(cache.iterdir())) == 1

    def test_a_file_of_other_weights_under_that_name_is_not_taken(self, data: Path, text: Corpus, cache: Path) -> None:
        model, other = tiny.shared("llama"), tiny.language_model("llama", seed=1)
        self.ship(data, other, text, 1)
        (data / shipped_name(other.weight_hash(), 1)).rename(data / shipped_name(model.weight_hash(), 1))
        with pytest.raises(StatisticsError, match="no second moments"):
            moments(model, [1])


class TestDamage:
    def damage(self, cache: Path) -> Path:
        (path,) = cache.iterdir()
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
        return path

    def test_it_is_said_and_collected_again(
        self, text: Corpus, cache: Path, collections: list[list[int]], caplog: pytest.LogCaptureFixture
    ) -> None:
        model = tiny.shared("llama")
        good = moments(model, [1], corpus=text, **OPTIONS)[1]
        path = self.damage(cache)
        with caplog.at_level(logging.WARNING):
            again = moments(model, [1], corpus=text, **OPTIONS)[1]
        assert len(collections) == 2 and path.name in caplog.text and "damaged" in caplog.text
        assert torch.equal(again.matrix(), good.matrix())
        assert torch.equal(SecondMoment.load(path).matrix(), good.matrix())

    def test_without_a_corpus_it_is_an_error(self, text: Corpus, cache: Path) -> None:
        model = tiny.shared("llama")
        moments(model, [1], corpus=text, **OPTIONS)
        path = self.damage(cache)
        with pytest.raises(StatisticsError, match=f"{path.name} is damaged.*give a corpus"):
            moments(model, [1])

    def test_without_a_corpus_a_good_one_is_taken(self, text: Corpus, cache: Path) -> None:
        model = tiny.shared("llama")
        moments(model, [1], corpus=text, **{**OPTIONS, "tokens": 900})
        self.damage(cache)
        good = moments(model, [1], corpus=text, **OPTIONS)[1]
        assert moments(model, [1])[1].count == good.count


class TestCacheThatCannotBeWritten:
    def test_it_is_found_out_before_anything_is_collected(
        self, text: Corpus, tmp_path: Path, collections: list[list[int]]
    ) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="XDG_CACHE_HOME"):
            moments(tiny.shared("llama"), [1], corpus=text, cache=tmp_path / "file" / "cache", **OPTIONS)
        assert collections == []

    def test_a_full_disk_leaves_nothing_half_written(
        self, text: Corpus, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match=r"No space left on device.*XDG_CACHE_HOME"):
            moments(tiny.shared("llama"), [1], corpus=text, **OPTIONS)
        assert list(cache.iterdir()) == []

    def test_ctrl_c_leaves_nothing(self, text: Corpus, cache: Path) -> None:
        def stop(_message: str, _share: float) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            moments(tiny.shared("llama"), [1], corpus=text, progress=stop, **OPTIONS)
        assert list(cache.iterdir()) == []
