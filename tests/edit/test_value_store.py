"""The store of values gives back what was put in, to any number of processes, and never what was damaged."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
import torch

from rome_engine.edit import values
from rome_engine.edit.context import Contexts
from rome_engine.edit.value import Value, ValueConfig
from rome_engine.edit.value_store import ValueStore, in_cache
from rome_engine.errors import StorageError
from rome_engine.facts import Fact
from tests import tiny


def value(seed: int, dtype: torch.dtype = torch.float32) -> Value:
    generator = torch.Generator().manual_seed(seed)
    initial, delta = torch.randn(2, 40, generator=generator, dtype=dtype)
    return Value(initial + delta, delta, initial, (2.5, 1 / 3, 1e-9 * seed), stopped_early=seed % 2 == 0, seconds=0.1)


def same(one: Value, other: Value) -> bool:
    tensors = ("target", "delta", "initial")
    numbers = ("losses", "stopped_early", "seconds")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors) and all(
        getattr(one, name) == getattr(other, name) for name in numbers
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values.sqlite"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gives_back_bit_for_bit_what_was_kept(path: Path, dtype: torch.dtype) -> None:
    kept = {f"key{seed}": value(seed, dtype) for seed in range(3)}
    with ValueStore(path) as store:
        for key, one in kept.items():
            store.keep({key: one})
    with ValueStore(path) as store:
        found = store.find(["key2", "other", "key0"])
    assert found.keys() == {"key2", "key0"}
    assert all(same(one, kept[key]) and one.delta.dtype == dtype for key, one in found.items())


def test_finds_any_number_and_keeps_the_last_of_a_key(path: Path) -> None:
    with ValueStore(path) as store:
        store.keep({"7": value(1)})
        store.keep({"7": value(2)})
        found = store.find([str(number) for number in range(2000)])
        assert found.keys() == {"7"} and same(found["7"], value(2))
        assert store.find([]) == {}


def test_two_that_have_it_open_see_each_others_values(path: Path) -> None:
    with ValueStore(path) as one, ValueStore(path) as other:
        for seed in range(10):
            (one, other)[seed % 2].keep({str(seed): value(seed)})
            assert same((other, one)[seed % 2].find([str(seed)])[str(seed)], value(seed))


def _fill(path: Path, first: int) -> None:
    with ValueStore(path) as store:
        for seed in range(first, first + 20):
            store.keep({str(seed): value(seed)})


def test_processes_may_make_and_fill_it_at_once(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(path, 20 * number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    with ValueStore(path) as store:
        assert len(store.find([str(seed) for seed in range(80)])) == 80


def test_a_damaged_value_is_said_and_not_given(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with ValueStore(path) as store:
        for seed in range(4):
            store.keep({str(seed): value(seed)})
    with sqlite3.connect(path) as raw:
        [tensors] = raw.execute("SELECT tensors FROM found WHERE key = '1'").fetchone()
        raw.execute("UPDATE found SET tensors = ? WHERE key = '1'", (tensors[:-1] + bytes([tensors[-1] ^ 1]),))
        raw.execute("UPDATE found SET tensors = ? WHERE key = '2'", (tensors[:-4],))
        raw.execute("UPDATE found SET about = replace(about, '2.5', '2.6') WHERE key = '3'")
    with ValueStore(path) as store:
        assert store.find(["0", "1", "2", "3"]).keys() == {"0"}
        assert caplog.text.count(f"a value in {path} is damaged, and is searched again") == 3
        store.keep({"1": value(1)})
        assert same(store.find(["1"])["1"], value(1))


def test_what_is_kept_belongs_to_what_computed_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, fact = tiny.shared("llama"), Fact("{} is in", "The Louvre", target_new="Rome")
    given = (model, [fact], Contexts(("{}",)), 1, ValueConfig(steps=1))
    for version, kept in (("1", 1), ("1", 1), ("2", 2)):
        monkeypatch.setattr(values, "computed_by", lambda _device, version=version: f"cpu torch {version}")
        values.values(*given, store=path, new_only=False)
        with sqlite3.connect(path) as file:
            assert file.execute("SELECT count(*) FROM found").fetchone() == (kept,)


def test_a_damaged_file_is_refused_with_the_remedy(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    with pytest.raises(StorageError, match=r"values\.sqlite is damaged .*: delete it"):
        ValueStore(path)
    path.unlink()
    with ValueStore(path) as store:
        for seed in range(50):
            store.keep({str(seed): value(seed)})
    content = bytearray(path.read_bytes())
    content[4096:-4096] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with ValueStore(path) as store, pytest.raises(StorageError, match="delete it"):
        store.find([str(seed) for seed in range(50)])


def test_a_database_of_something_else_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE found (key TEXT)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="no store of values"):
        ValueStore(path)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot use the store of values .*choose a folder"):
        ValueStore(tmp_path / "nowhere" / "values.sqlite")
    with pytest.raises(StorageError, match="cannot use the store of values"):
        ValueStore(tmp_path)


def test_the_caches_store_is_made_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rome_engine.edit.value_store.cache_home", lambda: tmp_path / "a" / "b")
    store = in_cache()
    assert store is not None and store.path == tmp_path / "a" / "b" / "values.sqlite" and store.path.is_file()
    store.close()
