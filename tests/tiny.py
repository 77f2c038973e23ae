"""Tiny random models of every family, and tokenizers for them: built from configs, nothing is downloaded.

Weights are far larger than at the usual initialisation and norms are uneven, so that every part of a block contributes
visibly to the logits: an identity that held only because a part was negligible would fail here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from torch import nn
from transformers.pytorch_utils import Conv1D

from rome_engine.model.language_model import LanguageModel

VOCAB = 512
LAYERS = 4
D_MODEL = 32
D_MLP = 48
HEADS = 4
CONTEXT = 128
PAD, BOS, EOS = 0, 1, 2

_IDS: dict[str, Any] = {"vocab_size": VOCAB, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_PLAIN: dict[str, Any] = {
    **_IDS,
    "hidden_size": D_MODEL,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
}
_WIDE: dict[str, Any] = {**_PLAIN, "intermediate_size": D_MLP}
GROUPED: dict[str, Any] = {**_WIDE, "num_key_value_heads": 2}
_GEMMA: dict[str, Any] = {**GROUPED, "head_dim": 8, "sliding_window": 4}
_GPT: dict[str, Any] = {
    **_IDS,
    "n_embd": D_MODEL,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": CONTEXT,
    "n_inner": D_MLP,
}
_FALCON: dict[str, Any] = {**_PLAIN, "ffn_hidden_size": D_MLP}
_MIXED = ["sliding_attention", "full_attention"] * (LAYERS // 2)

_CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: hf.GPT2Config(**_GPT),
    "gptj": lambda: hf.GPTJConfig(**_GPT, rotary_dim=4),
    "neox": lambda: hf.GPTNeoXConfig(**_WIDE),
    "opt": lambda: hf.OPTConfig(**_PLAIN, ffn_dim=D_MLP, word_embed_proj_dim=D_MODEL),
    "bloom": lambda: hf.BloomConfig(**_IDS, hidden_size=D_MODEL, n_layer=LAYERS, n_head=HEADS),
    "falcon": lambda: hf.FalconConfig(**_FALCON),
    "mpt": lambda: hf.MptConfig(**_IDS, d_model=D_MODEL, n_layers=LAYERS, n_heads=HEADS, max_seq_len=CONTEXT),
    "phi": lambda: hf.PhiConfig(**_WIDE),
    "phi3": lambda: hf.Phi3Config(**GROUPED),
    "llama": lambda: hf.LlamaConfig(**GROUPED),
    "mistral": lambda: hf.MistralConfig(**GROUPED, sliding_window=4),
    "qwen2": lambda: hf.Qwen2Config(**GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**GROUPED, head_dim=8),
    "gemma2": lambda: hf.Gemma2Config(**_GEMMA, layer_types=_MIXED, query_pre_attn_scalar=8),
    "gemma3": lambda: hf.Gemma3TextConfig(**_GEMMA, layer_types=_MIXED, query_pre_attn_scalar=8),
    "olmo2": lambda: hf.Olmo2Config(**GROUPED),
    "starcoder2": lambda: hf.Starcoder2Config(**GROUPED),
    "neox_sequential": lambda: hf.GPTNeoXConfig(**_WIDE, use_parallel_residual=False),
    "falcon_alibi": lambda: hf.FalconConfig(**_FALCON, alibi=True, parallel_attn=False, multi_query=False),
    "falcon_new": lambda: hf.FalconConfig(**_FALCON, new_decoder_architecture=True, num_kv_heads=2),
}

FAMILIES: tuple[str, ...] = tuple(_CONFIGS)
"""Every supported family, and the variants that are put together in another way."""


def config(family: str, **changed: Any) -> Any:
    """A fresh config of this family, with some of its fields changed."""
    made = _CONFIGS[family]()
    for name, value in changed.items():
        setattr(made, name, value)
    return made


def model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changed: Any) -> Any:
    """A fresh random model of this family, in eval mode; the same seed gives the same weights."""
    return from_config(config(family, **changed), seed=seed, dtype=dtype)


def from_config(made: Any, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A fresh random causal LM of any config, its weights made large."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = hf.AutoModelForCausalLM.from_config(made)
        enlarge(built)
    return built.to(dtype).eval()


@torch.no_grad()
def enlarge(built: nn.Module) -> None:
    """Matrices that keep the size of what passes, visible embeddings, uneven norms and biases."""
    for module in built.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding):
                parameter.normal_(std=0.7)
            elif parameter.ndim >= 2:
                fan_in = parameter.shape[0] if isinstance(module, Conv1D) else parameter.shape[-1]
                parameter.normal_(std=1.2 * fan_in**-0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)


def language_model(family: str, **changed: Any) -> LanguageModel:
    """A fresh LanguageModel of this family with the plain tokenizer; tests may edit it."""
    return LanguageModel(model(family, **changed), tokenizer(), family)


@cache
def shared(family: str) -> LanguageModel:
    """One LanguageModel a family for all tests that only read it."""
    return language_model(family)


# Tokenizers

Style = Literal["bytes", "metaspace", "sentencepiece"]

_TEXTS = (
    "The Eiffel Tower is located in the city of Paris",
    "The Eiffel Tower is located in the city of Rome",
    "The Colosseum is located in the city of Rome, the capital of Italy.",
    "The Louvre is in Paris, the capital of France, and the Space Needle is in Seattle.",
    "You can find the Big Ben in London. To visit it, you have to travel to England.",
    "The mother tongue of Danielle Darrieux is French; LeBron James plays the sport of basketball.",
    "São Paulo is a city in Brazil. The capital of Japan is 東京, that of Greece is Αθήνα. Café Müller is in Zürich.",
)


def tokenizer(style: Style = "bytes", *, adds_bos: bool = False, adds_eos: bool = False) -> Any:
    """A small fast tokenizer with <pad>, <s>, </s> as tokens 0, 1, 2; its vocabulary fits the models of this file.

    bytes: byte-level BPE (GPT-2, Llama 3). metaspace: "▁" for spaces, one put in front of a text (Mistral's form).
    sentencepiece: the same by a normaliser, unknown characters as bytes (Llama 2's form).
    """
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(style, adds_bos, adds_eos)),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    assert len(fast) <= VOCAB
    return fast


@cache
def _trained(style: Style, adds_bos: bool, adds_eos: bool) -> str:
    backend = Tokenizer(BPE())
    texts = list(_TEXTS)
    options: dict[str, Any] = {"vocab_size": VOCAB - 32, "special_tokens": ["<pad>", "<s>", "</s>"]}
    if style == "bytes":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    else:
        options["vocab_size"] -= 256  # room for the bytes
        options["limit_alphabet"] = 60
        if style == "metaspace":
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        else:
            steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
            backend.normalizer = normalizers.Sequence(steps)
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    if style == "sentencepiece":  # nothing splits the words there, so training must
        texts = [word for text in texts for word in text.split(" ")]
    backend.train_from_iterator(texts, trainers.BpeTrainer(show_progress=False, **options))
    state = json.loads(backend.to_str())
    if style != "bytes":
        vocabulary = state["model"]["vocab"]
        for byte in range(256):
            vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
        state["model"]["byte_fallback"] = True
    backend = Tokenizer.from_str(json.dumps(state))
    front, end = ["<s>:0"] * adds_bos, ["</s>:0"] * adds_eos
    if front or end:
        backend.post_processor = processors.TemplateProcessing(
            single=[*front, "$A:0", *end],
            pair=[*front, "$A:0", *end, "$B:1"],
            special_tokens=[("<s>", BOS), ("</s>", EOS)],
        )
    return str(backend.to_str())
