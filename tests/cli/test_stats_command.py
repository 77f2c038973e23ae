"""`rome-engine stats`: the convergence figure, shards and their merging, import and export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rome_engine.stats import SecondMoment
from tests import tiny
from tests.cli.conftest import Cli, refused
from tests.stats.texts import paragraphs


@pytest.fixture
def common(neox: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A collection of three batches, in a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    (here / "text.txt").write_text("\n\n".join(paragraphs(400)), encoding="utf-8")
    return ["stats", "-m", neox, "--corpus", "text.txt", "--layers", "1,3", "--tokens", 12000]


def cached(here: Path) -> dict[str, SecondMoment]:
    return {path.name: SecondMoment.load(path) for path in (here / "cache").rglob("*.safetensors")}


def test_the_convergence_is_told_and_kept(cli: Cli, common: list[object], here: Path) -> None:
    done = cli(*common)
    assert done.code == 0 and "C⁻¹k moved" in done.out and "unknown" not in done.out
    for rows in (cli(*common, "--json").record["moments"], cli(*common[:3], *common[5:7], "--json").record["moments"]):
        for row in rows:
            told = row["convergence"]
            assert 0 < told["turned"] < 1 and told["keys_before"] < told["keys"] == row["count"]
    few = [*common[:-1], 60]
    assert "unknown" in cli(*few).out
    assert all(row["convergence"] is None for row in cli(*few, "--json").record["moments"])


def test_merged_shards_are_found_as_the_collection(cli: Cli, common: list[object], here: Path) -> None:
    files = [f"part{n}" for n in (1, 2, 3)]
    for number, file in enumerate(files, start=1):
        record = cli(*common, "--shard", f"{number}/3", "--out", file, "--json").record
        assert record["shard"] == f"{number}/3" and record["written"] == file and list(record["counts"]) == ["1", "3"]
    assert cached(here) == {}
    refused(cli("stats", "merge", *files[:2]), "shards are missing: 3/3")
    refused(cli("stats", "merge", *files, files[1]), "given twice: 2/3")
    rows = cli("stats", "merge", *files, "--json").record["moments"]
    merged = cached(here)
    assert sorted(merged) == sorted(Path(row["file"]).name for row in rows) and len(rows) == 2
    assert cli(*common, "--json").record["moments"] == [
        {name: value for name, value in row.items() if name != "file"} for row in rows
    ]  # found, not collected
    for path in (here / "cache").rglob("*.safetensors"):
        path.unlink()
    assert cli(*common).code == 0
    for name, moment in cached(here).items():
        assert torch.allclose(moment.matrix(), merged[name].matrix(), rtol=1e-12, atol=0)
    shown = cli("stats", "merge", *files)
    assert shown.code == 0 and "written: " in shown.err and "C⁻¹k moved" in shown.out
    again = cli(*common, "--shard", "2/3", "--out", "part2")
    assert again.code == 0 and "shard 2/3, keys by layer 1: " in again.out


def test_export_and_import(cli: Cli, common: list[object], neox: Path, here: Path) -> None:
    assert cli(*common).code == 0
    original = next(moment for name, moment in cached(here).items() if "layer-003" in name)
    assert cli("stats", "export", "m.npz", "-m", neox, "--layer", 3, "--precision", "float64").code == 0
    with np.load(here / "m.npz") as archive:
        assert archive["mom2.count"].item() == original.count
        assert np.allclose(archive["mom2.mom2"] / original.count, original.matrix().numpy(), rtol=1e-14)
    with np.load(here / "m.npz") as archive:  # fewer keys than those in the cache
        np.savez(here / "m.npz", **{**archive, "mom2.count": archive["mom2.count"] - 1})
    done = cli("stats", "import", "m.npz", "-m", neox, "--layer", 3, "--json")
    (row,) = done.record["moments"]
    assert "before all others" in done.err
    assert row["corpus"] == "m.npz (imported)" and row["layer"] == 3
    (found,) = cli("stats", "-m", neox, "--layers", 3, "--json").record["moments"]  # edits find it just so
    assert found["key"] == row["key"] and found["count"] == original.count - 1
    restored = SecondMoment.load(row["file"]).matrix() * (original.count - 1)
    assert torch.allclose(restored, original.matrix() * original.count, rtol=1e-12)
    Path(row["file"]).unlink()
    (found,) = cli("stats", "-m", neox, "--layers", 3, "--json").record["moments"]
    assert found["count"] == original.count


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shard", "2/4"), "--shard, --out and --corpus belong together"),
        (("--out", "x"), "--shard, --out and --corpus belong together"),
        (("--corpus", "text.txt", "--shard", "5/4", "--out", "x"), "no shard 5/4"),
        (("--corpus", "text.txt", "--shard", "two", "--out", "x"), "'two' is not given as two numbers such as 2/4"),
        (("--corpus", "text.txt", "--shard", "1/2", "--out", "no/x"), "the folder no does not exist"),
        (("--seed", 3, "merge", "x"), "give the options of merge behind it"),
        (("merge",), "Missing argument"),
        (("merge", "absent"), "there is no file absent"),
        (("merge", "text.txt"), "text.txt holds no second moment or is damaged"),
        (("import", "absent.npz", "--layer", 1), "there is no file absent.npz"),
        (("import", "text.txt", "--layer", 1), "no .npz file"),
        (("import", "text.txt"), "Missing option '--layer'"),
        (("export", "m.bin", "--layer", 1), "ends in '.bin'"),
        (("export", "no/m.npz", "--layer", 1), "the folder no does not exist"),
    ],
)
def test_said_before_any_work(cli: Cli, arguments: tuple[object, ...], said: str, here: Path, no_model: None) -> None:
    (here / "text.txt").write_text("Some text.")
    refused(cli("stats", *arguments), said)
    assert [path.name for path in here.iterdir()] == ["text.txt"]


def test_an_import_that_does_not_fit(cli: Cli, common: list[object], neox: Path, here: Path) -> None:
    np.savez(here / "m.npz", **{"mom2.mom2": np.eye(5), "mom2.count": 9})  # type: ignore[arg-type]
    refused(cli("stats", "import", "m.npz", "-m", neox, "--layer", 1), "keys of 5 numbers", "another model")
    d = tiny.model("neox").config.intermediate_size
    np.savez(here / "m.npz", **{"mom2.mom2": np.eye(d), "mom2.count": 9})  # type: ignore[arg-type]
    refused(cli("stats", "import", "m.npz", "-m", neox, "--layer", 99), "no layer 99")
    refused(cli("stats", "export", "out.npz", "-m", neox, "--layer", 2), "no second moments of layer 2")
    assert not list((here / "cache").rglob("*.safetensors")) and not (here / "out.npz").exists()
