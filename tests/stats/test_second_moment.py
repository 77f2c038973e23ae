"""Second moments as theorems: streaming, merging, solving; and their two file formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rome_engine.errors import StatisticsError, StorageError
from rome_engine.stats import Provenance, SecondMoment
from rome_engine.stats import packed as packing

D = 300  # more than one block, and no multiple of one


def keys(rows: int, d: int = D, seed: int = 0) -> Tensor:
    """Correlated keys of uneven scale with a mean far from zero."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return (torch.randn(rows, d, generator=generator, dtype=torch.float64) + 0.5) @ mix * torch.linspace(0.1, 10, d)


def moment(*batches: Tensor, provenance: Provenance | None = None) -> SecondMoment:
    made = SecondMoment(batches[0].shape[-1], provenance)
    for batch in batches:
        made.update(batch)
    return made


def provenance(**changed: object) -> Provenance:
    about = Provenance(
        layer=2,
        weights="w" * 64,
        corpus="c" * 64,
        tokenizer="t" * 64,
        tokens=1000,
        length=64,
        seed=0,
        first_token_ratio=3.5,
        first_token_left_out=True,
        model="tiny",
        corpus_name="text",
        versions="torch 0",
    )
    return replace(about, **changed)  # type: ignore[arg-type]


def off(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).norm() / reference.norm())


class TestMean:
    def test_streaming_equals_batch_and_definition(self) -> None:
        k = keys(1001)
        streamed = moment(*k.split(37))
        assert off(streamed.matrix(), k.T @ k / 1001) < 1e-12
        assert off(streamed.matrix(), moment(k).matrix()) < 1e-12
        assert streamed.count == 1001

    def test_a_mean_over_batches_would_not_do(self) -> None:
        k = keys(1001)
        wrong = torch.stack([batch.T @ batch / len(batch) for batch in k.split(990)]).mean(0)
        assert off(wrong, moment(*k.split(990)).matrix()) > 1e-2

    def test_it_is_not_centred(self) -> None:
        k = keys(1001)
        assert off(moment(k).matrix(), torch.cov(k.T)) > 1e-2

    def test_a_batch_longer_than_a_piece(self) -> None:
        k = keys(9001, d=5)
        assert off(moment(k).matrix(), k.T @ k / 9001) < 1e-12

    def test_order_does_not_matter(self) -> None:
        k = keys(500)
        shuffled = k[torch.randperm(500, generator=torch.Generator().manual_seed(1))]
        assert off(moment(*shuffled.split(64)).matrix(), moment(k).matrix()) < 1e-12

    def test_symmetric_and_positive(self) -> None:
        matrix = moment(*keys(400).float().split(50)).matrix()
        assert torch.equal(matrix, matrix.T)
        eigenvalues = torch.linalg.eigvalsh(matrix)
        assert float(eigenvalues[0]) > -1e-12 * float(eigenvalues[-1])

    def test_leading_dimensions(self) -> None:
        k = keys(60)
        assert torch.equal(moment(k.reshape(3, 4, 5, D)).matrix(), moment(k).matrix())
        assert torch.equal(moment(*k).matrix(), moment(*k.split(1)).matrix())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_low_precision_keys_are_summed_exactly(self, dtype: torch.dtype) -> None:
        k = (keys(300) / 100).to(dtype)
        exact = k.double().T @ k.double() / 300
        assert off(moment(*k.split(17)).matrix(), exact) < 1e-12
        in_their_own_type = (k.T @ k).double() / 300
        assert off(in_their_own_type, exact) > 1e-9

    def test_merge_equals_concatenation(self) -> None:
        k = keys(700)
        left, right = moment(k[:123]), moment(k[123:])
        left.merge(right)
        assert left.count == 700 and right.count == 577
        assert off(left.matrix(), moment(k).matrix()) < 1e-12

    def test_merge_with_an_empty_one(self) -> None:
        k = keys(50)
        empty, full = SecondMoment(D), moment(k)
        full.merge(SecondMoment(D))
        empty.merge(full)
        assert torch.equal(empty.matrix(), moment(k).matrix())
        empty.update(k)
        assert full.count == 50 and torch.equal(full.matrix(), moment(k).matrix())

    def test_merge_keeps_a_common_provenance_and_refuses_other_weights(self) -> None:
        k, about = keys(40), provenance()
        first = moment(k, provenance=about)
        first.merge(moment(k, provenance=about))
        assert first.provenance == about
        for other in (provenance(weights="x"), provenance(layer=3), provenance(first_token_left_out=False)):
            with pytest.raises(StatisticsError, match="cannot be merged"):
                first.merge(moment(k, provenance=other))
        assert first.count == 80
        first.merge(moment(k, provenance=provenance(corpus="d")))
        assert first.provenance is None

    def test_bad_keys_leave_it_as_it_was(self) -> None:
        k = keys(20)
        tried = moment(k, provenance=provenance())
        with pytest.raises(StatisticsError, match="width"):
            tried.update(k[:, :-1])
        broken = k.clone()
        broken[3, 4] = float("inf")
        with pytest.raises(StatisticsError, match="layer 2 are not finite"):
            tried.update(broken)
        with pytest.raises(StatisticsError, match="widths"):
            tried.merge(SecondMoment(D + 1))
        assert tried.count == 20 and torch.equal(tried.matrix(), moment(k).matrix())

    def test_nothing_seen(self) -> None:
        empty = SecondMoment(4)
        empty.update(torch.zeros(0, 4))
        with pytest.raises(StatisticsError, match="no keys"):
            empty.matrix()
        with pytest.raises(StatisticsError):
            SecondMoment(0)


class TestSolve:
    def test_residual_is_zero(self) -> None:
        made = moment(keys(2000))
        rhs = torch.randn(D, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        solution = made.solve(rhs)
        assert solution.dtype == torch.float64
        assert off(made.matrix() @ solution, rhs) < 1e-9
        assert torch.equal(made.solve(rhs.float()), made.solve(rhs.float().double()))

    def test_one_column_is_a_vector(self) -> None:
        made, rhs = moment(keys(2000)), torch.ones(D)
        assert made.solve(rhs).shape == (D,)
        assert torch.equal(made.solve(rhs), made.solve(rhs[:, None])[:, 0])

    def test_the_factor_is_kept_until_the_next_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        real = torch.linalg.cholesky_ex
        monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda matrix: calls.append(1) or real(matrix))
        made, rhs = moment(keys(2000)), torch.ones(D, dtype=torch.float64)
        made.solve(rhs)
        made.solve(rhs)
        assert len(calls) == 1
        made.solve(rhs, jitter=0.1)
        assert len(calls) == 2
        made.update(keys(2000, seed=5))
        assert off(made.matrix() @ made.solve(rhs), rhs) < 1e-9
        made.merge(moment(keys(100, seed=6)))
        assert off(made.matrix() @ made.solve(rhs), rhs) < 1e-9

    def test_too_few_keys(self) -> None:
        with pytest.raises(StatisticsError, match=rf"layer 2 is singular.*299 keys of 300.*at least {10 * D} tokens"):
            moment(keys(D - 1), provenance=provenance()).solve(torch.ones(D))

    def test_too_few_keys_hidden_by_rounding(self, tmp_path: Path) -> None:
        """Rounding to float32 makes a singular matrix look regular: the file's precision is remembered."""
        moment(keys(D - 1)).save(tmp_path / "m.safetensors")
        with pytest.raises(StatisticsError, match="singular"):
            SecondMoment.load(tmp_path / "m.safetensors").solve(torch.ones(D))

    def test_dead_numbers_are_named_and_a_jitter_helps(self) -> None:
        k = keys(2000)
        k[:, [3, 40]] = 0
        made, rhs = moment(k), torch.ones(D, dtype=torch.float64)
        with pytest.raises(StatisticsError, match="2 of them never active"):
            made.solve(rhs)
        ridge = 1e-3 * made.matrix().diagonal().mean() * torch.eye(D, dtype=torch.float64)
        assert off((made.matrix() + ridge) @ made.solve(rhs, jitter=1e-3), rhs) < 1e-9

    def test_nothing_is_added_unasked(self) -> None:
        made, rhs = moment(keys(2000)), torch.ones(D, dtype=torch.float64)
        assert off(made.solve(rhs, jitter=1e-3), made.solve(rhs)) > 1e-6

    def test_wrong_width(self) -> None:
        with pytest.raises(StatisticsError, match="right side"):
            moment(keys(2000)).solve(torch.ones(D + 1))


class TestFile:
    def test_float64_comes_back_exactly(self, tmp_path: Path) -> None:
        made = moment(keys(500), provenance=provenance())
        made.save(tmp_path / "m.safetensors", dtype="float64")
        back = SecondMoment.load(tmp_path / "m.safetensors")
        assert torch.equal(back.matrix(), made.matrix())
        assert (back.count, back.d, back.provenance) == (500, D, provenance())

    def test_float32_is_rounded_by_half_a_unit(self, tmp_path: Path) -> None:
        made = moment(keys(500))
        made.save(tmp_path / "m.safetensors")
        back = SecondMoment.load(tmp_path / "m.safetensors").matrix()
        assert bool(((back - made.matrix()).abs() <= 2.0**-24 * made.matrix().abs()).all())
        assert not torch.equal(back, made.matrix())
        assert (tmp_path / "m.safetensors").stat().st_size < 4 * D * (D + 1) // 2 + 2000

    def test_float16_is_rounded_as_correlations(self, tmp_path: Path) -> None:
        k = keys(5000)
        k[:, 7] = 0
        made = moment(k, provenance=provenance())
        made.save(tmp_path / "m.safetensors", dtype="float16")
        back, path = SecondMoment.load(tmp_path / "m.safetensors"), tmp_path / "m.safetensors"
        roots = made.matrix().diagonal().sqrt()
        assert bool(((back.matrix() - made.matrix()).abs() <= 2.0**-11 * torch.outer(roots, roots)).all())
        assert (back.count, back.d, back.provenance) == (5000, D, provenance())
        assert torch.allclose(back.matrix().diagonal(), made.matrix().diagonal(), rtol=1e-12)
        assert path.stat().st_size < 2 * D * (D + 1) // 2 + 8 * D + 2000
        assert back.precision == torch.finfo(torch.float16).eps

    def test_float16_of_independent_numbers_solves_well(self, tmp_path: Path) -> None:
        """Unlike sizes do not matter, unlike in a matrix rounded as it is."""
        k = torch.randn(5000, D, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, D)
        made, rhs = moment(k), k[:3].T.double()
        made.save(tmp_path / "m.safetensors", dtype="float16")
        assert off(SecondMoment.load(tmp_path / "m.safetensors").solve(rhs), made.solve(rhs)) < 1e-3

    def test_updates_go_on_after_loading(self, tmp_path: Path) -> None:
        k = keys(700)
        moment(k[:300]).save(tmp_path / "m.safetensors", dtype="float64")
        back = SecondMoment.load(tmp_path / "m.safetensors")
        back.update(k[300:])
        assert off(back.matrix(), moment(k).matrix()) < 1e-12

    def test_equal_moments_make_equal_files(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            moment(keys(50), provenance=provenance()).save(tmp_path / name)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_nothing_but_the_file_is_left(self, tmp_path: Path) -> None:
        moment(keys(50)).save(tmp_path / "new" / "m.safetensors")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.safetensors"]

    @pytest.mark.parametrize("where", [0.0, 0.02, 0.5, 0.99])
    def test_a_changed_byte_is_noticed(self, tmp_path: Path, where: float) -> None:
        path = tmp_path / "m.safetensors"
        moment(keys(50), provenance=provenance()).save(path)
        content = bytearray(path.read_bytes())
        content[int(where * len(content))] ^= 0x10
        path.write_bytes(content)
        with pytest.raises(StatisticsError) as raised:
            SecondMoment.load(path)
        assert "\n" not in str(raised.value) and str(path) in str(raised.value)

    def test_no_second_moment(self, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        moment(keys(50)).save(path)
        whole = path.read_bytes()
        for content in (b"", b"nonsense", whole[:100], whole[:-1]):
            path.write_bytes(content)
            with pytest.raises(StatisticsError, match="delete it"):
                SecondMoment.load(path)
        save_file({"weight": torch.ones(3)}, path)
        with pytest.raises(StatisticsError, match="no second moment"):
            SecondMoment.load(path)
        with pytest.raises(StatisticsError, match="there is no file"):
            SecondMoment.load(tmp_path / "absent")
        with pytest.raises((StatisticsError, StorageError)):
            SecondMoment.load(tmp_path)

    def test_contradicting_headers(self, tmp_path: Path) -> None:
        path, values = tmp_path / "m.safetensors", torch.ones(6)
        good = {"d": 3, "count": 9, "precision": 1e-7, "provenance": None}
        packing.write(path, values, good)
        assert SecondMoment.load(path).count == 9
        about = provenance().to_dict()
        bad = ({"d": 4}, {"count": 0}, {"count": None}, {"precision": "x"}, {"provenance": {}})
        forged = ({"provenance": {**about, "layer": 3}}, {"provenance": {**about, "layer": "2"}})
        for change in (*bad, *forged):
            packing.write(path, values, good | change)
            with pytest.raises(StatisticsError, match="damaged"):
                SecondMoment.load(path)

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError, match="cannot write"):
            moment(keys(50)).save(tmp_path / "file" / "m.safetensors")

    def test_a_full_disk_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "m.safetensors"
        moment(keys(50)).save(path)
        before = path.read_bytes()

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match=r"No space left on device.*has room"):
            moment(keys(60)).save(path)
        assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


class TestPublishedLayout:
    def test_round_trip(self, tmp_path: Path) -> None:
        made = moment(keys(500))
        made.export_npz(tmp_path / "m.npz", sample_size=100, dtype="float64")
        back = SecondMoment.import_npz(tmp_path / "m.npz", provenance())
        assert torch.equal(back.matrix(), made.matrix()) and back.count == 500 and back.provenance == provenance()

    def test_names_and_meaning(self, tmp_path: Path) -> None:
        k = keys(500)
        moment(k).export_npz(tmp_path / "m.npz", sample_size=100)
        with np.load(tmp_path / "m.npz") as archive:
            assert set(archive) == {"mom2.constructor", "mom2.count", "mom2.mom2", "sample_size"}
            assert archive["mom2.count"].item() == 500 and archive["sample_size"].item() == 100
            assert archive["mom2.mom2"].dtype == np.float32 and archive["mom2.mom2"].shape == (D, D)
            assert off(torch.from_numpy(archive["mom2.mom2"]).double(), k.T @ k) < 1e-6

    def test_a_file_made_elsewhere(self, tmp_path: Path) -> None:
        k = keys(500).float()
        total = sum(part.T @ part for part in k.split(100)).numpy()  # type: ignore[union-attr]
        extra = {"mom2.constructor": "elsewhere.SecondMoment()", "mean.count": 500, "mean.mean": k.mean(0).numpy()}
        np.savez(tmp_path / "m.npz", **{"mom2.mom2": total, "mom2.count": 500}, **extra)
        assert off(SecondMoment.import_npz(tmp_path / "m.npz").matrix(), moment(k).matrix()) < 1e-6

    def test_foreign_files(self, tmp_path: Path) -> None:
        path, total = tmp_path / "m.npz", np.eye(3)
        cases: list[dict[str, object]] = [
            {"a": total},
            {"mom2.mom2": total},
            {"mom2.mom2": total[:2], "mom2.count": 5},
            {"mom2.mom2": np.eye(3, dtype=int), "mom2.count": 5},
            {"mom2.mom2": np.triu(np.ones((3, 3))), "mom2.count": 5},
            {"mom2.mom2": total * np.nan, "mom2.count": 5},
            {"mom2.mom2": total, "mom2.count": 0},
            {"mom2.mom2": np.array([[object()]]), "mom2.count": 5},
        ]
        for values in cases:
            np.savez(path, **values)  # type: ignore[arg-type]
            with pytest.raises(StatisticsError) as raised:
                SecondMoment.import_npz(path)
            assert "\n" not in str(raised.value)
        np.savez(path, **{"mom2.mom2": total, "mom2.count": 5})
        whole = path.read_bytes()
        for content in (b"", b"nonsense", whole[:60], whole[:-30]):
            path.write_bytes(content)
            with pytest.raises(StatisticsError):
                SecondMoment.import_npz(path)
        np.save(tmp_path / "one.npy", total)
        for absent in (tmp_path / "one.npy", tmp_path / "absent.npz"):
            with pytest.raises(StatisticsError):
                SecondMoment.import_npz(absent)
        with pytest.raises(StorageError, match=r"\.npz"):
            moment(keys(20)).export_npz(tmp_path / "m.bin")
