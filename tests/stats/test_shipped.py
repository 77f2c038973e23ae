"""The second moments in data/, and the script that makes them."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment, moments
from rome_engine.stats.store import shipped_name
from tests import tiny
from tests.stats.texts import corpus

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = sorted((ROOT / "data" / "second_moments").glob("*.safetensors"))


def layer_of(path: Path) -> int:
    found = re.search(r"layer-(\d+)", path.name)
    assert found is not None
    return int(found[1])


def test_some_are_shipped() -> None:
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(layer_of(path)))
def test_each_is_sound(path: Path) -> None:
    moment = SecondMoment.load(path)
    about = moment.provenance
    assert about is not None and path.parent.name + "/" + path.name == shipped_name(about.weights, layer_of(path))
    assert about.layer == layer_of(path) and 100 * moment.d < moment.count <= about.tokens
    rhs = torch.ones(moment.d, dtype=torch.float64)
    residual = moment.matrix() @ moment.solve(rhs) - rhs
    assert float(residual.norm() / rhs.norm()) < 1e-8
    assert path.stat().st_size < 5_000_000


@pytest.mark.embedded
def test_they_belong_to_the_embedded_model(embedded_folder: Path, tmp_path: Path) -> None:
    model = LanguageModel.load(str(embedded_folder))
    layers = [layer_of(path) for path in SHIPPED]
    found = moments(model, layers, cache=tmp_path)
    assert list(found) == layers and list(tmp_path.iterdir()) == []
    assert all(moment.d == model.architecture.d_mlp for moment in found.values())


class TestScript:
    def run(self, *arguments: str) -> int:
        before = sys.argv
        sys.argv = ["make_second_moments.py", *arguments]
        try:
            runpy.run_path(str(ROOT / "scripts" / "make_second_moments.py"), run_name="__main__")
        except SystemExit as left:
            return int(left.code or 0)
        finally:
            sys.argv = before
        raise AssertionError("the script did not exit")

    def test_it_writes_what_the_store_looks_for(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        model = tiny.shared("llama")
        model.module.save_pretrained(tmp_path / "model")
        model.tokenizer.save_pretrained(tmp_path / "model")
        texts = [corpus(tmp_path, 40, "a.txt"), corpus(tmp_path, 50, "b.txt")]
        out = tmp_path / "data"
        common = ["--model", str(tmp_path / "model"), "--out", str(out), "--length", "32", "--tokens", "900"]
        common += ["--cache", str(tmp_path / "cache")]
        for text in texts:
            common += ["--corpus", str(text.paths[0])]
        assert self.run(*common, "--layers", "1,3") == 0
        for layer in (1, 3):
            moment = SecondMoment.load(out / shipped_name(model.weight_hash(), layer))
            assert moment.provenance is not None and moment.provenance.corpus_name == "a + b"
            assert 0 < moment.count <= 900
        assert "layer 3" in capsys.readouterr().out
        large = (out / shipped_name(model.weight_hash(), 3)).stat().st_size
        assert self.run(*common, "--layers", "3", "--dtype", "float16") == 0
        assert (out / shipped_name(model.weight_hash(), 3)).stat().st_size < large
        assert self.run(*common, "--layers", "9") == 2
        assert capsys.readouterr().err.count("\n") == 1
