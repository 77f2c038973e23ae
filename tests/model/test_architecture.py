"""One contract over all families: the parts found are the right ones, and what cannot be proven is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from rome_engine.errors import UnsupportedModelError
from rome_engine.model.architecture import Architecture, discover
from rome_engine.model.hooks import Trace, TraceDict, first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.proofs import prove
from tests import tiny

PARALLEL = {"gptj", "neox", "phi", "falcon", "falcon_new"}
SANDWICH = {"gemma2", "gemma3", "olmo2"}
GROUPED = ("falcon_new", "phi3", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "starcoder2")
KV_HEADS = {"falcon": 1} | dict.fromkeys(GROUPED, 2)
WITHOUT_POSITION_LIMIT = {"bloom", "falcon_alibi"}

# Embedding, blocks, attention, its projection, its output, MLP, down-projection, its output, final norm: as the
# modelling code has them.
_LLAMA_LIKE = "model.embed_tokens model.layers self_attn self_attn.o_proj = mlp mlp.down_proj = model.norm"
_FALCON = (
    "transformer.word_embeddings transformer.h self_attention self_attention.dense = mlp mlp.dense_4h_to_h = "
    "transformer.ln_f"
)
_NEOX = (
    "gpt_neox.embed_in gpt_neox.layers attention attention.dense = mlp mlp.dense_4h_to_h = gpt_neox.final_layer_norm"
)
_SANDWICH = _LLAMA_LIKE.replace("= mlp", "post_attention_layernorm mlp").replace("= m", "post_feedforward_layernorm m")
PARTS = dict.fromkeys(["phi3", "llama", "mistral", "qwen2", "qwen3"], _LLAMA_LIKE) | {
    "gpt2": "transformer.wte transformer.h attn attn.c_proj = mlp mlp.c_proj = transformer.ln_f",
    "gptj": "transformer.wte transformer.h attn attn.out_proj = mlp mlp.fc_out = transformer.ln_f",
    "neox": _NEOX,
    "neox_sequential": _NEOX,
    "opt": "model.decoder.embed_tokens model.decoder.layers self_attn self_attn.out_proj = - fc2 = "
    "model.decoder.final_layer_norm",
    "bloom": _FALCON,
    "falcon": _FALCON,
    "falcon_alibi": _FALCON,
    "falcon_new": _FALCON,
    "mpt": "transformer.wte transformer.blocks attn attn.out_proj = ffn ffn.down_proj = transformer.norm_f",
    "phi": "model.embed_tokens model.layers self_attn self_attn.dense = mlp mlp.fc2 = model.final_layernorm",
    "starcoder2": "model.embed_tokens model.layers self_attn self_attn.o_proj = mlp mlp.c_proj = model.norm",
    "gemma2": _SANDWICH,
    "gemma3": _SANDWICH,
    "olmo2": _SANDWICH,
}


def test_there_is_an_expectation_for_every_family() -> None:
    assert set(PARTS) == set(tiny.FAMILIES)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_parts_found_are_those_of_the_modelling_code(family: str) -> None:
    found = tiny.shared(family).architecture
    embedding, blocks, attention, projection, attention_output, mlp, down, mlp_output, norm = PARTS[family].split()
    assert found.embedding == embedding
    assert found.blocks == tuple(f"{blocks}.{layer}" for layer in range(tiny.LAYERS))
    assert (found.attention, found.attention_projection) == (attention, projection)
    assert found.attention_output == (projection if attention_output == "=" else attention_output)
    assert found.mlp == (None if mlp == "-" else mlp)
    assert (found.down_projection, found.mlp_output) == (down, down if mlp_output == "=" else mlp_output)
    assert found.final_norm == norm
    assert found.unembedding in ("lm_head", "embed_out")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_how_the_parts_combine(family: str) -> None:
    model = tiny.shared(family)
    found = model.architecture
    assert found.model_class == type(model.module).__name__
    assert found.family == model.module.config.model_type
    assert found.parallel == (family in PARALLEL)
    assert found.sandwich == (family in SANDWICH)
    assert found.weight_layout.startswith("conv1d" if family == "gpt2" else "linear")
    assert found.softcap == (30.0 if family == "gemma2" else None)
    assert found.logit_scale == 1.0
    assert (found.n_layers, found.d_model, found.d_vocab) == (tiny.LAYERS, tiny.D_MODEL, tiny.VOCAB)
    assert found.d_mlp == (4 * tiny.D_MODEL if family in ("bloom", "mpt") else tiny.D_MLP)
    assert (found.n_heads, found.n_kv_heads) == (tiny.HEADS, KV_HEADS.get(family, tiny.HEADS))
    assert found.context == (None if family in WITHOUT_POSITION_LIMIT else tiny.CONTEXT)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_claim_is_proven_with_a_small_error(family: str) -> None:
    proofs = tiny.shared(family).proofs
    assert len({proof.claim for proof in proofs}) == 6
    assert all(proof.holds and proof.error < 2e-5 for proof in proofs)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_finding_and_proving_leave_no_trace(family: str) -> None:
    module = tiny.model(family)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    LanguageModel(module, tiny.tokenizer())
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in module.modules())
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_pass_that_fails_leaves_no_hooks() -> None:
    module = tiny.model("llama")

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        discover(module, fail)
    assert all(not part._forward_hooks for part in module.modules())


# Negative controls: a wrong map is not proven


def _wrong(family: str, **changed: Any) -> tuple[Any, Architecture]:
    model = tiny.shared(family)
    return model.module, replace(model.architecture, **changed)


RESIDUAL, UNEMBEDDING = "block output = block input", "logits = unembedding"


@pytest.mark.parametrize(
    ("family", "changed", "claim"),
    [
        ("llama", {"mlp_output": "post_attention_layernorm"}, RESIDUAL),
        ("llama", {"mlp_output": "self_attn"}, RESIDUAL),
        ("gpt2", {"attention_output": "ln_1"}, RESIDUAL),
        ("gemma2", {"mlp_output": "mlp.down_proj"}, RESIDUAL),
        ("gemma2", {"attention_output": "self_attn.o_proj"}, RESIDUAL),
        ("gemma3", {"attention_output": "pre_feedforward_layernorm"}, RESIDUAL),
        ("gemma2", {"softcap": None}, UNEMBEDDING),
        ("gemma2", {"softcap": 31.0}, UNEMBEDDING),
        ("llama", {"softcap": 30.0}, UNEMBEDDING),
        ("llama", {"logit_scale": 1.01}, UNEMBEDDING),
        ("llama", {"final_norm": "model.layers.3.input_layernorm"}, UNEMBEDDING),
        ("opt", {"embedding": "model.decoder.layers"}, "noise at the token embedding"),
    ],
)
def test_a_wrong_map_is_refused_by_the_claim_it_breaks(family: str, changed: dict[str, Any], claim: str) -> None:
    module, wrong = _wrong(family, **changed)
    with pytest.raises(UnsupportedModelError, match=claim) as caught:
        prove(module, wrong)
    assert module.config.model_type in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_down_projection_that_is_more_than_its_weight_is_refused() -> None:
    module = tiny.model("llama")
    proposed = discover(module, lambda: module(input_ids=torch.tensor([[1, 2, 3]])))
    down = module.model.layers[2].mlp.down_proj
    forward = down.forward
    down.forward = lambda key: 1.01 * forward(key)
    with pytest.raises(UnsupportedModelError, match="down-projection output = W"):
        prove(module, proposed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changed", [{"mlp_output": "post_attention_layernorm"}, {"mlp_output": "mlp.act_fn"}])
def test_a_wrong_map_cannot_hide_behind_a_large_residual_stream(dtype: torch.dtype, changed: dict[str, Any]) -> None:
    """A few directions of the residual stream carry huge values, as in trained models; the contributions are small."""
    module = tiny.model("llama", dtype=torch.float32)
    with torch.no_grad():
        module.model.embed_tokens.weight[:, :2] += 30_000
        for block in module.model.layers:
            block.post_attention_layernorm.weight.mul_(0.3)
    module = module.to(dtype)
    proposed = discover(module, lambda: module(input_ids=torch.tensor([[1, 2, 3]])))
    right, _ = prove(module, proposed)
    if "act_fn" in changed["mlp_output"]:
        right, changed = replace(right, attention_output="self_attn"), {"mlp_output": "self_attn.o_proj"}
    with pytest.raises(UnsupportedModelError, match=RESIDUAL):
        prove(module, replace(right, **changed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "gemma2", "falcon"])
def test_the_proofs_hold_in_other_precisions(family: str, dtype: torch.dtype) -> None:
    proofs = LanguageModel(tiny.model(family, dtype=dtype), tiny.tokenizer()).proofs
    assert all(proof.holds for proof in proofs)


def test_a_part_whose_output_is_overwritten_in_place_is_seen_as_it_was() -> None:
    """Falcon adds the attention's output to its MLP's in place: only a copy made at once is the MLP's own."""
    model = tiny.shared("falcon")
    ids = torch.arange(10, 18)[None]
    path = model.architecture.path(1, model.architecture.mlp_output)
    down: Any = model.module.get_submodule(path)
    with Trace(model.module, path, retain_input=True, clone=True) as copied:
        model.module(input_ids=ids)
    with Trace(model.module, path) as kept:
        model.module(input_ids=ids)
    expected = copied.input @ down.weight.T
    assert torch.allclose(copied.output, expected, atol=1e-5)
    assert not torch.allclose(kept.output, expected, atol=1e-2)  # control: it is overwritten
    parts = [model.architecture.path(1, part) for part in ("", model.architecture.attention_output)]
    with TraceDict(model.module, parts, retain_input=True, clone=True) as seen:
        model.module(input_ids=ids)
    block, attention = seen[parts[0]], seen[parts[1]]
    total = block.input + first_tensor(attention.output) + copied.output
    assert torch.allclose(total, first_tensor(block.output), atol=1e-5)


# What is refused


def _refused(module: nn.Module, match: str) -> None:
    with pytest.raises(UnsupportedModelError, match=match) as caught:
        LanguageModel(module, tiny.tokenizer())
    assert type(module).__name__ in str(caught.value)
    assert all(not part._forward_hooks for part in module.modules())


@pytest.mark.parametrize(
    "config",
    [
        hf.MixtralConfig(**tiny.GROUPED, num_local_experts=4),
        hf.GptOssConfig(**tiny.GROUPED, head_dim=8, num_local_experts=4),
        hf.Qwen3MoeConfig(**tiny.GROUPED, num_experts=4, moe_intermediate_size=16),
    ],
    ids=lambda config: str(config.model_type),
)
def test_mixtures_of_experts_are_refused_by_name(config: Any) -> None:
    _refused(hf.AutoModelForCausalLM.from_config(config).eval(), "mixture-of-experts")


def _bert(**changed: Any) -> Any:
    return hf.BertConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        **changed,
    )


def test_encoders_are_refused() -> None:
    _refused(hf.BertModel(_bert()), "no language-model head")
    for module in (hf.BertForMaskedLM(_bert()), hf.BertLMHeadModel(_bert())):
        tiny.enlarge(module)
        _refused(module, "earlier tokens do not see later ones")


def test_encoder_decoders_are_refused() -> None:
    config = hf.T5Config(vocab_size=tiny.VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    _refused(hf.T5ForConditionalGeneration(config), "encoder-decoder")


def test_a_model_without_a_head_is_refused() -> None:
    _refused(hf.LlamaModel(tiny.config("llama")), "no language-model head")


def test_post_norm_opt_is_refused() -> None:
    _refused(tiny.model("opt", do_layer_norm_before=False), "no final norm")


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"residual_multiplier": 0.5}, RESIDUAL),
        ({"residual_multiplier": 0.98}, RESIDUAL),
        ({"logits_scaling": 4.0}, UNEMBEDDING),
    ],
)
def test_multipliers_that_the_map_cannot_say_are_refused(changed: dict[str, Any], claim: str) -> None:
    _refused(tiny.from_config(hf.GraniteConfig(**tiny.GROUPED, **changed)), claim)


def test_multipliers_that_change_nothing_here_are_taken() -> None:
    config = hf.GraniteConfig(**tiny.GROUPED, embedding_multiplier=3.0, attention_multiplier=0.2)
    model = LanguageModel(tiny.from_config(config), tiny.tokenizer())
    assert not model.architecture.parallel


def test_cohere_is_parallel_and_scales_its_logits() -> None:
    model = LanguageModel(tiny.from_config(hf.CohereConfig(**tiny.GROUPED, logit_scale=0.25)), tiny.tokenizer())
    assert model.architecture.parallel
    assert model.architecture.logit_scale == 0.25


def test_equal_widths_do_not_confuse_the_orientation() -> None:
    """With d_mlp = d_model nothing can be told from a weight's shape."""
    for family, layout in (("gpt2", "conv1d"), ("llama", "linear")):
        width = {"n_inner": tiny.D_MODEL} if family == "gpt2" else {"intermediate_size": tiny.D_MODEL}
        model = tiny.language_model(family, **width)
        assert model.architecture.d_mlp == model.architecture.d_model
        assert model.architecture.weight_layout.startswith(layout)
