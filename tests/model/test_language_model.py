"""The language model: weights as the algebra has them, numbers as the model gives them, a line for each failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from rome_engine.errors import (
    ModelLoadError,
    PromptTooLongError,
    RomeEngineError,
    UnsupportedModelError,
)
from rome_engine.model.hooks import Trace, first_tensor
from rome_engine.model.language_model import LanguageModel
from tests import tiny

EIFFEL = "The Eiffel Tower is located in the city of"
PROMPTS = [EIFFEL, "Rome", "The Louvre is in Paris, the capital of France, and"]


# Modules and weights


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_value_is_the_weight_times_the_key(family: str) -> None:
    model = tiny.shared(family)
    prompt = model.tokenize(EIFFEL)
    for layer in range(model.n_layers):
        down: Any = model.down_projection(layer)
        with Trace(down, retain_input=True, clone=True) as trace:
            model.next_token_logits(prompt)
        assert model.weight(layer).shape == (model.d_model, model.architecture.d_mlp)
        bias = 0 if down.bias is None else down.bias
        assert torch.allclose(trace.output, trace.input @ model.weight(layer).T + bias, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_weight_is_a_view(family: str) -> None:
    model = tiny.language_model(family)
    prompt = model.tokenize(EIFFEL)
    before = model.next_token_logits(prompt)
    model.weight(1)[3] += 1
    assert not torch.allclose(model.next_token_logits(prompt), before, atol=1e-3)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_states_of_a_block_add_up(family: str) -> None:
    model = tiny.shared(family)
    prompt = model.tokenize(EIFFEL)
    with (
        Trace(model.output("hidden", 2), retain_input=True, clone=True) as hidden,
        Trace(model.output("mlp", 2), clone=True) as mlp,
        Trace(model.output("attn", 2), clone=True) as attention,
    ):
        model.next_token_logits(prompt)
    after = first_tensor(hidden.output)
    total = hidden.input + first_tensor(mlp.output).reshape(after.shape) + first_tensor(attention.output)
    assert torch.allclose(total, after, atol=1e-4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_an_mlp_for_the_last_token_alone_is_right_where_it_is_said_to_be(family: str) -> None:
    model = tiny.shared(family)
    prompt = model.tokenize(EIFFEL)
    if not model.last_mlp_may_see_one_token:
        assert family in ("opt", "falcon", "falcon_new", "bloom", "mpt")
        return
    with model.only_last_token_in_mlp(model.n_layers - 1):
        short = model.next_token_logits(prompt)
    assert torch.allclose(short, model.next_token_logits(prompt), atol=1e-4)


def test_gradients_are_off_and_the_model_is_in_eval_mode() -> None:
    model = LanguageModel(tiny.model("gpt2").train(), tiny.tokenizer())
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


# Identity


def test_the_hash_is_that_of_the_weights(tmp_path: Path) -> None:
    model = tiny.language_model("llama")
    original = model.weight_hash()
    assert model.weight_hash() == original == tiny.language_model("llama").weight_hash()
    assert tiny.language_model("llama", seed=1).weight_hash() != original

    model.next_token_logits(model.tokenize(EIFFEL))
    assert model.weight_hash() == original
    weight = model.weight(2)
    kept = weight[5, 7].clone()
    weight[5, 7] = torch.nextafter(kept, kept + 1)  # one unit in the last place
    assert model.weight_hash() != original
    weight[5, 7] = kept
    assert model.weight_hash() == original
    first, second = model.weight(0).clone(), model.weight(1).clone()
    model.weight(0).copy_(second)
    model.weight(1).copy_(first)  # the same numbers in other places
    assert model.weight_hash() != original

    save("llama", tmp_path)
    assert LanguageModel.load(str(tmp_path)).weight_hash() == original
    assert LanguageModel.load(str(tmp_path), dtype="bfloat16").weight_hash() != original


# Numbers


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_next_token_logits_and_unembedding_are_the_models_own(family: str) -> None:
    model = tiny.shared(family)
    prompt = model.tokenize(EIFFEL)
    with Trace(model.blocks[-1], clone=True) as last:
        logits = model.module(input_ids=torch.tensor([prompt.input_ids])).logits
    assert torch.allclose(model.next_token_logits(prompt), logits[0, -1], atol=1e-5)
    assert torch.allclose(model.unembed(first_tensor(last.output)), logits, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "gemma2"])
def test_a_targets_log_probability_is_the_sum_over_its_tokens_one_by_one(family: str) -> None:
    model = tiny.shared(family)
    prompt, target = model.tokenize(EIFFEL), model.target_ids(EIFFEL, "Seattle and Rome")
    assert len(target) > 1
    ids, total = list(prompt.input_ids), 0.0
    for token in target:
        probabilities = model.module(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        total += float(probabilities[token].log())
        ids.append(token)
    assert model.target_log_probability(prompt, target) == pytest.approx(total, rel=1e-5)


# Generation


def greedy(model: LanguageModel, ids: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """One token after another, each the argmax of a full forward pass; ends before the end token."""
    made: list[int] = []
    for _ in range(tokens):
        logits = model.module(input_ids=torch.tensor([[*ids, *made]])).logits[0, -1]
        made.append(int(logits.argmax()))
    for index, token in enumerate(made):
        if token in (tiny.EOS, tiny.PAD):
            return tuple(made[:index])
    return tuple(made)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_padded_batch_generates_what_each_prompt_does_alone(family: str) -> None:
    model = tiny.shared(family)
    prompts = [model.tokenize(text) for text in PROMPTS]
    assert len({len(prompt.input_ids) for prompt in prompts}) == len(prompts)
    expected = [greedy(model, prompt.input_ids, 6) for prompt in prompts]
    assert model.generate(prompts, 6) == expected


def test_generation_ignores_the_checkpoints_own_sampling() -> None:
    model = tiny.language_model("llama")
    prompts = [model.tokenize(text) for text in PROMPTS]
    expected, sampled = model.generate(prompts, 8), model.generate(prompts, 8, top_k=5)
    settings = model.module.generation_config
    settings.repetition_penalty, settings.no_repeat_ngram_size, settings.do_sample = 9.0, 1, True
    settings.temperature, settings.top_p, settings.top_k, settings.num_beams = 3.0, 0.1, 2, 1
    assert model.generate(prompts, 8) == expected
    assert model.generate(prompts, 8, top_k=5) == sampled


def test_generation_ends_before_the_end_token() -> None:
    model = tiny.language_model("llama")
    prompt = model.tokenize(EIFFEL)
    free = model.generate([prompt], 6)[0]
    model.module.generation_config.eos_token_id = free[2]
    first = free.index(free[2])
    assert model.generate([prompt], 6) == [free[:first]]
    model.module.generation_config.eos_token_id = [tiny.EOS, free[0]]
    assert model.generate([prompt, prompt], 6) == [(), ()]
    assert model.generate([prompt], 6, min_tokens=6)[0] != ()


def test_sampling_is_seeded_and_leaves_the_random_state_alone() -> None:
    model = tiny.shared("gpt2")
    prompts = [model.tokenize(text) for text in PROMPTS]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = model.generate(prompts, 12, top_k=20, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert model.generate(prompts, 12, top_k=20, seed=3) == first
    assert model.generate(prompts, 12, top_k=20, seed=4) != first


def test_sampling_stays_within_the_top_k() -> None:
    model = tiny.shared("gpt2")
    prompt = model.tokenize(EIFFEL)
    assert model.generate([prompt], 6, top_k=1) == model.generate([prompt], 6)
    best = set(model.next_token_logits(prompt).topk(3).indices.tolist())
    made = {model.generate([prompt], 1, top_k=3, seed=seed)[0][:1] for seed in range(12)}
    assert {token for tokens in made for token in tokens} <= best
    assert len(made) > 1


# Length


def test_what_does_not_fit_into_the_context_is_refused() -> None:
    model = tiny.shared("gpt2")
    long = "Rome " * 200
    for attempt in (
        lambda: model.tokenize(long),
        lambda: model.generate([model.tokenize(EIFFEL)], tiny.CONTEXT),
        lambda: model.target_log_probability(model.tokenize(EIFFEL), [5] * tiny.CONTEXT),
    ):
        with pytest.raises(PromptTooLongError, match=f"context holds {tiny.CONTEXT}"):
            attempt()
    assert len(tiny.shared("bloom").tokenize(long).input_ids) > tiny.CONTEXT  # ALiBi has no such limit


# Loading


def save(family: str, folder: Path) -> Path:
    tiny.model(family).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def refused(source: str, kind: type[RomeEngineError] = ModelLoadError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        LanguageModel.load(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_saved_model_comes_back(family: str, tmp_path: Path) -> None:
    model, loaded = tiny.shared(family), LanguageModel.load(str(save(family, tmp_path)))
    assert loaded.name == str(tmp_path)
    prompt = loaded.tokenize(EIFFEL)
    assert prompt == model.tokenize(EIFFEL)
    assert torch.equal(loaded.next_token_logits(prompt), model.next_token_logits(prompt))
    half = LanguageModel.load(str(tmp_path), dtype="bfloat16", device="cpu")
    assert half.dtype == torch.bfloat16


def test_a_folder_that_is_not_there() -> None:
    for source in ("./no-such-folder", "/no/such/folder", "~/no/such/folder", "a/b/c", " "):
        assert "there is no folder" in refused(source)


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert "no config.json" in refused(str(tmp_path))


@pytest.mark.parametrize("content", [b"{not json", b"\xff\xfe", b"[]", b"{}"])
def test_a_config_that_is_none(content: bytes, tmp_path: Path) -> None:
    save("llama", tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    assert str(tmp_path) in refused(str(tmp_path))


def test_an_unknown_model_type(tmp_path: Path) -> None:
    save("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))
    assert "nonesuch" in refused(str(tmp_path))


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    save("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    marker = tmp_path / "ran"

    class Harmful:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    torch.save({"weight": Harmful()}, tmp_path / "pytorch_model.bin")
    assert "safetensors" in refused(str(tmp_path))
    assert not marker.exists()


def test_weights_that_are_damaged(tmp_path: Path) -> None:
    save("llama", tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    for damaged in (content[: len(content) // 2], b"\xff" * 100, b""):
        weights.write_bytes(damaged)
        assert "cannot be loaded" in refused(str(tmp_path))


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    tiny.model("llama").save_pretrained(tmp_path)
    refused(str(tmp_path))


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"vocab_size": tiny.VOCAB, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = hf.BertConfig(**shape, hidden_size=32, intermediate_size=48)
    distil = hf.DistilBertConfig(vocab_size=tiny.VOCAB, dim=32, n_layers=2, n_heads=4, hidden_dim=48)
    expected = {
        hf.BertModel: "no weights for",
        hf.BertForMaskedLM: "earlier tokens do not see later ones",
        hf.DistilBertForMaskedLM: "not a causal LM",
    }
    for kind, words in expected.items():
        folder = tmp_path / kind.__name__
        module = kind(distil if kind is hf.DistilBertForMaskedLM else bert)
        tiny.enlarge(module)
        module.save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        assert words in refused(str(folder), UnsupportedModelError)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = hf.T5Config(vocab_size=tiny.VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    hf.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert "encoder-decoder" in refused(str(tmp_path), UnsupportedModelError)


def test_a_head_that_the_checkpoint_lacks_is_never_made_up(tmp_path: Path) -> None:
    """transformers would put random numbers there."""
    hf.LlamaForSequenceClassification(tiny.config("llama")).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert "no weights for lm_head.weight" in refused(str(tmp_path), UnsupportedModelError)


def test_code_of_the_models_own_runs_only_when_allowed(tmp_path: Path) -> None:
    save("llama", tmp_path)
    marker = tmp_path / "ran"
    (tmp_path / "own.py").write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class Own(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    path = tmp_path / "config.json"
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    assert "--trust-remote-code" in refused(str(tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}], ids=["offline", "unreachable"]
)
def test_a_hub_id_without_a_network(environment: dict[str, str], tmp_path: Path) -> None:
    script = (
        "from rome_engine.errors import ModelLoadError\n"
        "from rome_engine.model.language_model import LanguageModel\n"
        "try:\n    LanguageModel.load('nobody/no-such-model')\n"
        "except ModelLoadError as error:\n    print(error)\n"
    )
    quick = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **quick, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("the model nobody/no-such-model is not on this machine and the Hub cannot be reached")
    assert ran.stdout.count("\n") == 1


def test_transformers_settings_are_restored(tmp_path: Path) -> None:
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    refused(str(save("llama", tmp_path)), ModelLoadError, revision=None, dtype="no-such-type")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gptj", "opt"])
def test_the_logits_of_a_batch_are_those_of_each_prompt(family: str) -> None:
    model = tiny.shared(family)
    prompts = [model.tokenize(text) for text in ("The Louvre is in", "The Eiffel is in")]
    prompts = [prompt for prompt in prompts if len(prompt.input_ids) == len(prompts[0].input_ids)]
    found = model.batch_logits(prompts)
    for row, prompt in zip(found, prompts, strict=True):
        torch.testing.assert_close(row, model.next_token_logits(prompt), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gptj", "neox"])
def test_logits_in_memory_that_is_there_are_the_same(family: str) -> None:
    """Also where the unembedding has a bias (GPT-J) or a softcap (Gemma 2), and is no plain product."""
    model = tiny.shared(family)
    hidden = torch.randn(2, 3, tiny.D_MODEL, generator=torch.Generator().manual_seed(0))
    room = torch.full((8, tiny.VOCAB), torch.nan)
    with torch.no_grad():
        plain, found = model.unembed(hidden), model.unembed(hidden, room)
    torch.testing.assert_close(found, plain)
    assert (found.data_ptr() == room.data_ptr()) == (family in ("llama", "neox"))
