"""Edits and merged checkpoints on disk: exact, whole or not there, and refused when they are something else."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rome_engine import files as edit_files
from rome_engine.edit import Edit, save_merged
from rome_engine.errors import EditFileError, StorageError, WrongWeightsError
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import LAYER, bit_equal, fitted, random_edit, state


@pytest.fixture
def model() -> LanguageModel:
    return tiny.language_model("llama")


def test_a_saved_edit_comes_back_exactly(model: LanguageModel, tmp_path: Path) -> None:
    edit = fitted(model)
    path = tmp_path / "edit.safetensors"
    edit.save(path)
    edit.save(path)  # over itself
    assert [file.name for file in tmp_path.iterdir()] == ["edit.safetensors"]
    back = Edit.load(path)
    assert back.provenance == edit.provenance
    assert back.layers.keys() == edit.layers.keys()
    for layer, change in edit.layers.items():
        assert torch.equal(back.layers[layer].left, change.left)
        assert torch.equal(back.layers[layer].right, change.right)
        assert {**vars(back.layers[layer]), "left": 0, "right": 0} == {**vars(change), "left": 0, "right": 0}
    with edit.applied(model):
        once = state(model)
    with back.applied(model):
        assert bit_equal(model, once)
    with pytest.raises(WrongWeightsError, match=f"layer {LAYER}"):
        back.apply_(tiny.language_model("llama", seed=5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_loaded_edit_of_several_layers_makes_the_same_weights(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = tiny.language_model(family, dtype=dtype)
    before, edit = state(model), random_edit(model, (0, 2, 3), rank=3)
    edit.save(tmp_path / "edit.safetensors")
    with edit.applied(model):
        once = state(model)
    handle = Edit.load(tmp_path / "edit.safetensors").apply_(model)
    assert bit_equal(model, once) and not bit_equal(model, before)
    handle.undo()
    assert bit_equal(model, before)


def test_what_is_no_edit_is_refused_in_one_line(model: LanguageModel, tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    random_edit(model).save(good)
    content = good.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for damaged in (b"", b"\x00\xff" * 500, content[: len(content) // 2], content[:-1], content[:20]):
        bad.write_bytes(damaged)
        _refused(bad)
    save_file({"weight": torch.ones(2)}, bad)
    _refused(bad, "its format is None")
    save_file({"weight": torch.ones(2)}, bad, {"format": "rome_engine.edit/1", "edit": "{}"})
    _refused(bad)
    save_file({"weight": torch.ones(2)}, bad, {"format": "rome_engine.edit/1", "edit": "no json"})
    _refused(bad)
    bad.write_bytes(content.replace(b"weight_sha256", b"weight_sha257"))
    _refused(bad)
    bad.write_bytes(content.replace(b"model_hash", b"model_hush"))
    _refused(bad, "where it comes from")
    bad.write_bytes(content[:-4] + b"\x00\x00\xc0\x7f")
    _refused(bad, "finite")
    with pytest.raises(StorageError, match="there is no edit file"):
        Edit.load(tmp_path / "none.safetensors")
    with pytest.raises(StorageError, match="there is no edit file"):
        Edit.load(tmp_path)


def _refused(path: Path, reason: str = "damaged, or no edit") -> None:
    with pytest.raises(EditFileError, match=reason) as raised:
        Edit.load(path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_an_edit_that_cannot_be_written_leaves_what_was_there(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "edit.safetensors"
    path.write_text("before")
    monkeypatch.setattr(edit_files.os, "fsync", _disk_full)
    with pytest.raises(StorageError, match="No space left on device"):
        random_edit(model).save(path)
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    with pytest.raises(StorageError, match="cannot write"):
        random_edit(model).save(tmp_path / "no" / "such" / "folder.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "neox"])
def test_plain_transformers_loads_the_merged_checkpoint(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = tiny.language_model(family, dtype=dtype)
    before, edit = state(model), random_edit(model)
    folder = save_merged(model, edit, tmp_path / "merged")
    assert bit_equal(model, before)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The Eiffel Tower is in", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        merged = loaded(input_ids=ids).logits
        plain = model.module(input_ids=ids).logits
        with edit.applied(model):
            edited = model.module(input_ids=ids).logits
    assert loaded.dtype == dtype
    with edit.applied(model):
        assert all(
            torch.equal(parameter, model.module.get_parameter(name)) for name, parameter in loaded.named_parameters()
        )
    if dtype == torch.float32:  # the tiny model's rotary tables are rounded to its type, a loaded one's are not
        assert torch.equal(merged, edited)
    assert not torch.allclose(merged, plain)
    tied = model.module.get_input_embeddings().weight is model.module.get_output_embeddings().weight
    assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) == tied
    assert LanguageModel.load(str(folder)).n_layers == model.n_layers


def test_a_folder_in_use_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    edit, folder = random_edit(model), tmp_path / "used"
    folder.mkdir()
    save_merged(model, edit, folder)  # empty is fine
    with pytest.raises(StorageError, match="exists already"):
        save_merged(model, edit, folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="exists already"):
        save_merged(model, edit, tmp_path / "file")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_merge_that_fails_leaves_nothing_behind(
    model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before, edit = state(model), random_edit(model)

    def save_half(folder: Path) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(model.module, "save_pretrained", save_half)
    with pytest.raises(StorageError if isinstance(error, OSError) else KeyboardInterrupt):
        save_merged(model, edit, tmp_path / "merged")
    assert not list(tmp_path.iterdir())
    assert bit_equal(model, before)


def _disk_full(_file: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
