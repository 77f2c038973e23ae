"""A Hugging Face causal LM with its tokenizer and its proven architecture.

Sole owner of module look-up, weight orientation, token spans and positions: nothing else in the package knows a
module's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LogitsProcessorList

from rome_engine.errors import PromptTooLongError, TargetError, UnsupportedModelError
from rome_engine.model import families, plain_block, tokens
from rome_engine.model.architecture import Architecture, discover, is_conv1d
from rome_engine.model.generation_cache import generation_cache
from rome_engine.model.hooks import Trace, first_tensor
from rome_engine.model.loading import load_pretrained
from rome_engine.model.offload import device_of, is_offloaded, stored
from rome_engine.model.proofs import Proof, prove, unembed
from rome_engine.model.sampling import DrawnByRow, Sound
from rome_engine.model.tokens import BosPolicy, Prompt

Kind = Literal["hidden", "mlp", "attn"]

_READ_AT_ONCE = 2
_NOT_RUN = frozenset(
    {
        "_name_or_path",
        "_attn_implementation",
        "architectures",
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
"""Of a config, what changes no number that is not told elsewhere."""

# Said aloud, because transformers fills what is left unsaid from the checkpoint's generation settings.
_PLAIN_DECODING: dict[str, Any] = {
    "num_beams": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}


class LanguageModel:
    """An unmodified Hugging Face causal LM, seen through its architecture. The model itself is `self.module`.

    Raises UnsupportedModelError where the architecture cannot be found or proven.
    """

    def __init__(self, module: nn.Module, tokenizer: Any, name: str = "model") -> None:
        self.module: Any = module.eval()
        self.tokenizer: Any = tokenizer
        self.name = name
        self._tried_as_plain: bool | None = None
        self.module.requires_grad_(False)
        probe = torch.arange(5)[None] + 1
        found = discover(module, lambda: self.module(input_ids=probe.to(self.device), use_cache=False))
        self.architecture: Architecture
        self.proofs: tuple[Proof, ...]
        self.architecture, self.proofs = prove(module, families.corrected(found, self.module.config))

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | None = None,
        device_map: Any = None,
        offload_folder: str | Path | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> LanguageModel:
        """The model of a Hub id or local folder; None or "embedded" is the embedded model.

        dtype: "auto" keeps what the checkpoint says. device: where to put it. device_map: how to split it over several
        devices, with "disk" for what stays there until it is needed: "auto", "balanced", "sequential" or module names
        -> devices, as transformers takes it. offload_folder: where weights go that cannot be read from the checkpoint
        as they are (those of most mixtures of experts); others need none. Remote code runs only when
        trust_remote_code says so, and weights are read from safetensors only.
        Raises ModelLoadError, UnsupportedModelError, EmbeddedModelError; each names the remedy.
        """
        module, tokenizer, shown = load_pretrained(
            name,
            dtype=dtype,
            device=device,
            device_map=device_map,
            offload_folder=offload_folder,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        return cls(module, tokenizer, shown)

    # Modules

    @property
    def n_layers(self) -> int:
        return self.architecture.n_layers

    @property
    def d_model(self) -> int:
        return self.architecture.d_model

    @cached_property
    def embedding(self) -> nn.Module:
        return self._at(self.architecture.embedding)

    @cached_property
    def unembedding(self) -> nn.Module:
        return self._at(self.architecture.unembedding)

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        return tuple(self._at(path) for path in self.architecture.blocks)

    @cached_property
    def blocks_return_tuples(self) -> bool:
        """Whether a block gives a tuple, its states first (older families), or the bare tensor."""
        with Trace(self.module, self.architecture.blocks[0], stop=True) as block, torch.no_grad():
            self.module(input_ids=torch.tensor([[1]], device=self.device), use_cache=False)
        return isinstance(block.output, tuple)

    def output(self, kind: str, layer: int) -> nn.Module:
        """The module whose output is the state of this kind: the block ("hidden") or what "mlp" or "attn" adds."""
        part = {"hidden": "", "mlp": self.architecture.mlp_output, "attn": self.architecture.attention_output}[kind]
        return self._at(self.architecture.path(layer, part))

    def down_projection(self, layer: int) -> nn.Module:
        """The MLP's last projection: its input is the key, its output the value."""
        return self._at(self.architecture.path(layer, self.architecture.down_projection))

    def mlp(self, layer: int) -> nn.Module | None:
        """The MLP module of a block; None where the block holds the MLP's layers itself (OPT)."""
        return None if self.architecture.mlp is None else self._at(self.architecture.path(layer, self.architecture.mlp))

    def only_last_token_in_mlp(self, layer: int) -> Trace:
        """A hook under which this block's MLP runs for the last token alone: its output is right for that one only."""
        mlp = self.mlp(layer)
        if mlp is None:
            raise UnsupportedModelError(f"{self.architecture.model_class} has no MLP module to restrict")
        return Trace(mlp, edit_input=lambda states, _layer: states[:, -1:].contiguous(), retain_output=False)

    @cached_property
    def last_mlp_may_see_one_token(self) -> bool:
        """Whether the last block is right for the last token under `only_last_token_in_mlp`: tried on a short text.

        It is where the block only ever adds the MLP's output to other states, out of place.
        """
        if self.architecture.mlp is None:
            return False
        last = self.architecture.blocks[-1]
        ids = torch.tensor([[1, 2, 3], [3, 2, 1]], device=self.device) % self.architecture.d_vocab
        with torch.no_grad():
            with Trace(self.module, last, stop=True, clone=True) as whole:
                self.module(input_ids=ids, use_cache=False)
            try:
                with self.only_last_token_in_mlp(self.n_layers - 1), Trace(self.module, last, stop=True) as part:
                    self.module(input_ids=ids, use_cache=False)
            except RuntimeError:  # shapes that do not broadcast
                return False
        one, other = first_tensor(whole.output)[:, -1], first_tensor(part.output)
        return other.ndim == 3 and torch.allclose(one, other[:, -1], rtol=1e-4, atol=1e-4 * float(one.abs().max()))

    @cached_property
    def attends_to_common_prefix(self) -> bool:
        """Whether rows with the same text before them can share its keys and values: see `prefix_attention`."""
        from rome_engine.model import replay  # which is made of models

        return replay.attends_to_common_prefix(self)

    @property
    def blocks_are_plain(self) -> bool:
        """Whether the blocks can be computed as Llama's are (see `plain_block`); they are tried once, without hooks."""
        from rome_engine.model import replay

        if self._tried_as_plain is None and all(plain_block.is_plain(block) for block in self.blocks):
            self._tried_as_plain = replay.blocks_are_plain(self)
        return bool(self._tried_as_plain)

    def weight(self, layer: int) -> Float[Tensor, "d_model d_mlp"]:
        """A view of the down-projection's weight, oriented so that value = weight @ key (+ bias).

        Of a layer that `is_offloaded` it is a copy, read at each call: the layer cannot be changed by it.
        """
        module: Any = self.down_projection(layer)
        weight = stored(module, "weight", module.weight.data)
        return weight.T if is_conv1d(module) else weight

    def is_offloaded(self, layer: int) -> bool:
        """Whether weights of this layer's down-projection are kept elsewhere until it runs (device_map)."""
        return is_offloaded(self.down_projection(layer))

    def _at(self, path: str) -> nn.Module:
        module: nn.Module = self.module.get_submodule(path)
        return module

    # Numbers

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return device_of(self.module.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        weight: Tensor = next(self.module.parameters())
        return weight.dtype

    def unembed(
        self, hidden: Float[Tensor, "*batch d_model"], out: Tensor | None = None
    ) -> Float[Tensor, "*batch d_vocab"]:
        """Logits of last-block outputs: final norm, unembedding, scale and softcap.

        out: memory for them, (rows, d_vocab) with at least as many rows; it is used where the unembedding is a plain
        product. Fresh memory of this size costs as much as the product.
        """
        return unembed(self.module, self.architecture, hidden, out)

    @torch.no_grad()
    def next_token_logits(self, prompt: Prompt) -> Float[Tensor, " d_vocab"]:
        """Logits after a prompt, in float32."""
        logits: Tensor = self.module(input_ids=self.ids(prompt), use_cache=False).logits
        return logits[0, -1].float()

    @torch.no_grad()
    def batch_logits(self, prompts: Sequence[Prompt]) -> Float[Tensor, "prompts d_vocab"]:
        """Logits after each of some prompts of one length, in float32; no others are computed."""
        with Trace(self.module, self.architecture.blocks[-1]) as top:
            self.module.base_model(input_ids=self.ids(*prompts), use_cache=False)
        return self.unembed(first_tensor(top.output)[:, -1]).float()

    @torch.no_grad()
    def target_log_probability(self, prompt: Prompt, target: Sequence[int]) -> float:
        """Sum over the target's tokens of their log-probability after the prompt, teacher-forced, in nats."""
        ids = torch.tensor([[*prompt.input_ids, *target]], device=self.device)
        self.check_length(prompt, len(target))
        logits = self.module(input_ids=ids[:, :-1], use_cache=False).logits[0, -len(target) :].float()
        chosen = torch.tensor(list(target), device=logits.device)[:, None]
        return float(logits.log_softmax(-1).gather(1, chosen).sum())

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        tokens: int,
        *,
        top_k: int = 0,
        seed: int | Sequence[int] = 0,
        min_tokens: int = 0,
    ) -> list[tuple[int, ...]]:
        """The tokens that follow each prompt: greedy for top_k 0, else sampled among the top_k with this seed.

        seed: one for the batch; or one for each prompt, which then gets the same text in whatever batch it is.
        Prompts of any lengths go in one batch (padded on the left, with position ids). What the checkpoint's own
        generation settings say of sampling and penalties does not count. The global random state is left alone.
        Raises PromptTooLongError; NotFiniteError where logits are NaN.
        """
        longest = max(len(prompt.input_ids) for prompt in prompts)
        self.check_length(max(prompts, key=lambda prompt: len(prompt.input_ids)), tokens)
        pad = self._pad_id()
        ids = [[pad] * (longest - len(prompt.input_ids)) + list(prompt.input_ids) for prompt in prompts]
        mask = [[0] * (longest - len(prompt.input_ids)) + [1] * len(prompt.input_ids) for prompt in prompts]
        processors = LogitsProcessorList([Sound()])
        sampling: dict[str, Any] = {"do_sample": False}
        if top_k and isinstance(seed, int):
            sampling = {"do_sample": True, "top_k": top_k}
        elif top_k:
            processors.append(DrawnByRow(top_k, tokens, cast(Sequence[int], seed)))
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed if isinstance(seed, int) else 0)
            output: Tensor = self.module.generate(
                input_ids=torch.tensor(ids, device=self.device),
                attention_mask=torch.tensor(mask, device=self.device),
                max_new_tokens=tokens,
                min_new_tokens=min_tokens or None,
                pad_token_id=pad,
                use_cache=True,
                past_key_values=generation_cache(self.n_layers, longest + tokens),
                logits_processor=processors,
                **_PLAIN_DECODING,
                **sampling,
            )
        ends = {*self._end_ids(), self.tokenizer.pad_token_id, self.tokenizer.eos_token_id}
        return [_until(row[longest:].tolist(), ends) for row in output]

    @property
    def cache_bytes(self) -> int:
        """What a token's keys and values take in all layers together, in bytes."""
        config: Any = self.module.config.get_text_config()
        all_heads = max(self.architecture.n_heads, 1)
        heads = getattr(config, "num_key_value_heads", None) or all_heads
        width = heads * (getattr(config, "head_dim", None) or self.architecture.d_model // all_heads)
        return 2 * self.n_layers * width * self.dtype.itemsize

    # Tokens

    def tokenize(self, prompt: str, subject: str | None = None, bos: BosPolicy = "never") -> Prompt:
        """The tokens of a prompt and its subject's span: see `tokens.tokenize`. Raises PromptTooLongError besides."""
        found = tokens.tokenize(self.tokenizer, prompt, subject, bos)
        self.check_length(found)
        return found

    def target_ids(self, prompt: str, target: str) -> tuple[int, ...]:
        """The tokens of a target as they follow this prompt: see `tokens.continuation`."""
        ids = tokens.continuation(self.tokenizer, prompt, target)
        if any(token >= self.architecture.d_vocab for token in ids):
            raise TargetError(f"the target {target!r} has tokens that this model cannot say")
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def text_after(self, prompt: Prompt, ids: Sequence[int]) -> str:
        """What tokens add to a prompt's text. By themselves some tokenizers drop the space before their first word."""
        head, whole = self.text(prompt.input_ids), self.text((*prompt.input_ids, *ids))
        return whole[len(head) :] if whole.startswith(head) else self.text(ids)

    def ids(self, *prompts: Prompt) -> Int[Tensor, "rows tokens"]:
        """Prompts of one length as a batch on the model's device."""
        return torch.tensor([prompt.input_ids for prompt in prompts], device=self.device)

    def check_length(self, prompt: Prompt, more: int = 0) -> None:
        """Raises PromptTooLongError where the prompt, with `more` tokens to follow, does not fit the context."""
        context, length = self.architecture.context, len(prompt.input_ids)
        if context is not None and length + more > context:
            added = f" and {more} are to follow" if more else ""
            raise PromptTooLongError(
                f"the prompt {prompt.text[:40]!r}… has {length} tokens{added}, the model's context holds {context}: "
                "shorten it"
            )

    def _pad_id(self) -> int:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((int(token) for token in known if token is not None), 0)

    def _end_ids(self) -> list[int]:
        ends = getattr(getattr(self.module, "generation_config", None), "eos_token_id", None)
        return [] if ends is None else list(ends) if isinstance(ends, (list, tuple)) else [ends]

    # Identity

    def weight_hash(self) -> str:
        """sha256 over the name, type, shape and content of all parameters and buffers; keys statistics and edits.

        Where they are kept (device, disk) does not count; offloaded ones are read a few at a time.
        """
        state = self.module.state_dict()
        with ThreadPoolExecutor(_READ_AT_ONCE if is_offloaded(self.module) else None) as pool:
            read = partial(stored, self.module)
            digests = list(pool.map(lambda item: _digest(item[0], read(*item)), sorted(state.items())))
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def config_hash(self) -> str:
        """sha256 over how the weights are run: what the config says (windows, rotary, norms) and where a text ends.

        Its names, its number type and the version that wrote it do not count.
        """
        said = {name: value for name, value in self.module.config.to_dict().items() if name not in _NOT_RUN}
        said["ends"] = sorted(self._end_ids())
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()

    def tokenizer_hash(self) -> str:
        """sha256 over all that the tokenizer does with a text; of nothing for one without a description of itself."""
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        described = "" if backend is None else backend.to_str()
        return hashlib.sha256(described.encode()).hexdigest()


def _digest(name: str, tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(content.numpy().data)
    return digest.hexdigest()


def _until(ids: list[int], ends: set[int | None]) -> tuple[int, ...]:
    for index, token in enumerate(ids):
        if token in ends:
            return tuple(ids[:index])
    return tuple(ids)
