"""Models that transformers splits: the same weights and activations as in one piece, wherever they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rome_engine.errors import ModelLoadError, UnsupportedModelError
from rome_engine.model.activations import run_with_cache
from rome_engine.model.heads import heads_proven
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.offload import in_memory, stored, unkept
from rome_engine.model.patching import patched
from tests import split, tiny

TEXT = "The Louvre is located in the city of"
Pair = tuple[LanguageModel, LanguageModel]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return split.loaded(request.param, tmp_path_factory.mktemp(request.param))


def on_meta(module: nn.Module) -> list[bool]:
    return [weight.device.type == "meta" for weight in module.parameters()]


def test_split_models_are_proven_and_know_where_tokens_go(pair: Pair) -> None:
    plain, parted = pair
    assert all(on_meta(parted.blocks[1])) and all(on_meta(parted.embedding))
    assert not any(on_meta(parted.blocks[0]))
    assert parted.device == torch.device("cpu")
    assert parted.architecture == plain.architecture
    assert [proof.claim for proof in parted.proofs] == [proof.claim for proof in plain.proofs]
    assert heads_proven(parted) == heads_proven(plain)


def test_the_hash_does_not_ask_where_weights_are_kept(pair: Pair) -> None:
    plain, parted = pair
    assert parted.weight_hash() == plain.weight_hash()
    assert all(on_meta(parted.blocks[1]))  # they are not left in memory


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_the_hash_is_that_of_the_type_that_is_loaded(pair: Pair, dtype: str) -> None:
    plain, _ = pair
    family = plain.architecture.family
    parted = LanguageModel.load(plain.name, dtype=dtype, device_map=split.device_map(family))
    assert parted.weight_hash() == LanguageModel.load(plain.name, dtype=dtype).weight_hash() != plain.weight_hash()


def test_another_hash_where_one_offloaded_number_differs(tmp_path: Path) -> None:
    plain, parted = split.loaded("llama", tmp_path)
    before = plain.weight_hash()
    name = f"{parted.architecture.path(1, parted.architecture.down_projection)}.weight"
    weights = load_file(tmp_path / "model.safetensors")
    weights[name][0, 0] += 1e-3
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert LanguageModel.load(str(tmp_path), device_map=split.device_map("llama")).weight_hash() != before


def test_weights_are_read_and_oriented(pair: Pair) -> None:
    plain, parted = pair
    for layer in range(plain.n_layers):
        assert parted.is_offloaded(layer) == (layer % 2 == 1) and not plain.is_offloaded(layer)
        assert torch.equal(parted.weight(layer), plain.weight(layer))


def test_weights_stay_in_memory_within_the_block_and_no_longer(pair: Pair) -> None:
    _, parted = pair
    block = parted.blocks[1]
    with pytest.raises(KeyError), in_memory(block):
        assert not any(on_meta(block))
        here = [weight.data_ptr() for weight in block.parameters()]
        with in_memory(block):
            parted.next_token_logits(parted.tokenize(TEXT))
        assert [weight.data_ptr() for weight in block.parameters()] == here  # neither fetched again nor put away
        raise KeyError
    assert all(on_meta(block))


def test_activations_and_patches_are_those_of_the_plain_model(pair: Pair) -> None:
    plain, parted = pair

    def run(model: LanguageModel) -> Any:
        with patched(model, {"blocks.1.mid": lambda states, _: states * 1.5, "blocks.2.heads": lambda s, _: s + 1}):
            return run_with_cache(model, TEXT)

    for one, other in ((run_with_cache(plain, TEXT), run_with_cache(parted, TEXT)), (run(plain), run(parted))):
        assert list(one) == list(other) and len(one) > 8 * plain.n_layers
        torch.testing.assert_close(other.logits, one.logits, rtol=1e-5, atol=1e-5)
        for name in one:
            torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(run(parted).logits, run_with_cache(parted, TEXT).logits, atol=1e-2)


def test_text_is_generated_alike(pair: Pair) -> None:
    plain, parted = pair
    prompts = [plain.tokenize(TEXT), plain.tokenize("The capital of")]
    assert parted.generate(prompts, 5) == plain.generate(prompts, 5)


def test_maps_that_cannot_be_used_are_told_in_one_line(tmp_path: Path) -> None:
    folder = str(split.saved("gpt2", tmp_path))
    good = split.device_map("gpt2", ends="cpu")
    mistakes: dict[str, Any] = {
        "but found everywhere": "everywhere",
        "any device for the following parameters: transformer.ln_f": {
            module: place for module, place in good.items() if module != "transformer.ln_f"
        },
        "Invalid device string": {**good, "transformer.ln_f": "gpu7"},
        "the device meta loads no weights": {**good, "transformer.ln_f": "meta"},
        "lm_head.weight of .* put weights that are shared": {**good, "lm_head": "disk"},
        "shared weights on one": {**good, "transformer.wte": "disk"},
    }
    for said, given in mistakes.items():
        with pytest.raises(ModelLoadError, match=said) as raised:
            LanguageModel.load(folder, device_map=given)
        assert "\n" not in str(raised.value) and "device" in str(raised.value)
    with pytest.raises(ModelLoadError, match="both given"):
        LanguageModel.load(folder, device_map=good, device="cpu")


def test_weights_without_content_are_refused_by_name() -> None:
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(2, 2))
    assert unkept(empty) == ["0.weight", "0.bias"]
    with pytest.raises(UnsupportedModelError, match=r"0\.weight"), in_memory(empty):
        pass
    with pytest.raises(UnsupportedModelError, match=r"0\.bias"):
        stored(empty, "0.bias", empty.state_dict()["0.bias"])
    assert unkept(tiny.model("llama")) == []
