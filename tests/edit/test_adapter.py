"""The adapter that peft loads: the logits of the merged checkpoint, and exactly the edit's modules and ranks."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from rome_engine.edit import Edit, save_merged
from rome_engine.edit.adapter import save_adapter
from rome_engine.errors import StorageError, WrongWeightsError
from rome_engine.model import embedded
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import bit_equal, fitted, random_edit, same_logits, state

IDS = torch.arange(21).reshape(3, 7) * 11 % 400 + 3


def logits(module: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(input_ids=IDS).logits
    return found


def check(model: LanguageModel, edit: Edit, folder: Path) -> Any:
    """The plain model, loaded anew and with the adapter on it, gives the merged checkpoint's logits."""
    plain = folder / "plain"
    model.module.save_pretrained(plain)
    before = state(model)
    save_adapter(model, edit, folder / "adapter", base=str(plain))
    assert bit_equal(model, before)
    merged: Any = AutoModelForCausalLM.from_pretrained(save_merged(model, edit, folder / "merged"))
    base: Any = AutoModelForCausalLM.from_pretrained(plain)
    unedited = logits(base)
    adapted: Any = peft.PeftModel.from_pretrained(base, str(folder / "adapter"))
    expected = logits(merged)
    assert (unedited - expected).abs().max() > 0.1
    assert same_logits(logits(adapted), expected)
    found = {name for name, module in base.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
    assert found == {change.path for change in edit.layers.values()}
    for change in edit.layers.values():
        assert base.get_submodule(change.path).r["default"] == change.left.shape[1]
    return adapted


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt", "mpt"])
def test_peft_loads_the_logits_of_the_merged_model(family: str, tmp_path: Path) -> None:
    model = tiny.language_model(family)
    check(model, random_edit(model, (0, 1, 3), rank=3), tmp_path)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_layers_of_different_ranks(family: str, tmp_path: Path) -> None:
    """More layers than ten: no path may be taken for the beginning or the end of another."""
    model = tiny.language_model(family, num_hidden_layers=12)
    edits = [random_edit(model, (layer,), seed=layer, rank=rank) for layer, rank in ((1, 1), (10, 4), (11, 2))]
    layers = {layer: change for edit in edits for layer, change in edit.layers.items()}
    check(model, Edit(layers, edits[0].provenance), tmp_path)


def test_an_edit_of_one_fact_is_of_rank_one(tmp_path: Path) -> None:
    model = tiny.language_model("llama")
    check(model, fitted(model), tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 1 and not config["rank_pattern"] and not config["fan_in_fan_out"]
    assert sorted(
        tensor.numel() for tensor in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values()
    ) == [
        tiny.D_MODEL,
        tiny.D_MLP,
    ]


def test_the_base_is_where_the_model_came_from(tmp_path: Path) -> None:
    tiny.model("gpt2").save_pretrained(tmp_path / "plain")
    tiny.tokenizer().save_pretrained(tmp_path / "plain")
    model = LanguageModel.load(str(tmp_path / "plain"))
    save_adapter(model, random_edit(model), tmp_path / "adapter")
    loaded: Any = peft.AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
    with random_edit(model).applied(model):
        expected = logits(model.module)
    assert same_logits(logits(loaded), expected)


def test_the_embedded_models_base_is_on_the_hub(tmp_path: Path) -> None:
    model = tiny.language_model("llama")
    model.name, model.module.config.name_or_path = embedded.NAME, str(tmp_path)
    save_adapter(model, random_edit(model), tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    edit = random_edit(model)
    with pytest.raises(WrongWeightsError):
        save_adapter(tiny.language_model("llama", seed=1), edit, tmp_path / "adapter")

    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        save_adapter(model, edit, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(StorageError, match="exists already"):
        save_adapter(model, edit, tmp_path / "used")
