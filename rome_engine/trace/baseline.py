"""The clean and the corrupted run that every cell of a prompt shares, kept once.

Row 0 is clean, rows 1 to N are corrupted. All cells see the same noise, so they are paired.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from rome_engine.errors import TraceError
from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.hooks import TraceDict, first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replay import KeysValues
from rome_engine.model.tokens import Prompt
from rome_engine.trace.result import KINDS


@dataclass(frozen=True, eq=False)
class Baseline:
    """One prompt's runs. `states[kind][layer]` has shape (1 + samples, tokens, d_model), the clean row first.

    `noise` (samples, subject tokens, d_embedding) is what was added to the embeddings, `embedded` what the first
    block was given, `answer_id` the clean run's most probable next token, `probabilities` (1 + samples) its
    probability in each row.
    """

    prompt: Prompt
    noise: Float[Tensor, "samples length width"]
    sigma: float
    answer_id: int
    probabilities: Float[Tensor, " rows"]
    embedded: Float[Tensor, "rows tokens d_model"]
    states: dict[str, list[Tensor]]
    keys_values: KeysValues

    @property
    def samples(self) -> int:
        return self.noise.shape[0]

    @property
    def tokens(self) -> int:
        return len(self.prompt.input_ids)

    @property
    def subject(self) -> tuple[int, int]:
        if self.prompt.subject_range is None:
            raise TraceError("a trace needs a subject: name the words to corrupt")
        return self.prompt.subject_range

    @property
    def high(self) -> float:
        return float(self.probabilities[0])

    @property
    def low(self) -> float:
        return float(self.probabilities[1:].double().mean())

    def inputs(self, layer: int) -> Float[Tensor, "rows tokens d_model"]:
        """What the block of this layer was given."""
        return self.states["hidden"][layer - 1] if layer else self.embedded

    def clean(self, kind: str, layer: int, position: int) -> Float[Tensor, " d_model"]:
        """The clean run's state."""
        return self.states[kind][layer][0, position]


def corrupted_ids(model: LanguageModel, prompt: Prompt, samples: int) -> Int[Tensor, "rows tokens"]:
    """The batch of one clean and `samples` corrupted copies of the prompt."""
    return model.ids(*[prompt] * (1 + samples))


def corruption(model: LanguageModel, prompt: Prompt, noise: Float[Tensor, "samples length width"]) -> Hook:
    """A hook that adds the noise over the subject's tokens of rows 1 to N, at the token embedding's output."""
    begin, end = prompt.subject_range or (0, 0)

    def add(output: Tensor, _layer: str | None) -> Tensor:
        corrupted = output.clone()
        corrupted[1:, begin:end] += noise.to(output)
        return corrupted

    return Hook(model.module, model.architecture.embedding, edit_output=add, retain_output=False)


@torch.no_grad()
def run_baseline(
    model: LanguageModel, prompt: Prompt, noise: Float[Tensor, "samples length width"], sigma: float
) -> Baseline:
    """One forward pass of the clean and the corrupted rows, its states kept.

    Raises TraceError where the noise never reached the embedding or a probability is not finite.
    """
    paths = {
        kind: [model.architecture.path(layer, part) for layer in range(model.n_layers)]
        for kind, part in zip(
            KINDS, ("", model.architecture.mlp_output, model.architecture.attention_output), strict=True
        )
    }
    cache = DynamicCache()
    ids = corrupted_ids(model, prompt, noise.shape[0])
    with (
        corruption(model, prompt, noise) as embedding,
        Hook(model.blocks[0], retain_input=True, retain_output=False, clone=True) as first,
        TraceDict(model.module, [path for group in paths.values() for path in group], clone=True) as seen,
    ):
        model.module.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    if embedding.calls != 1:
        raise TraceError(
            f"the token embedding ran {embedding.calls} times in one forward pass: the noise cannot be placed"
        )
    rows, tokens = ids.shape
    states = {
        kind: [first_tensor(seen[path].output).reshape(rows, tokens, -1) for path in group]
        for kind, group in paths.items()
    }
    logits = model.unembed(states["hidden"][-1][:, -1]).float()
    answer_id = int(logits[0].argmax())
    probabilities = logits.softmax(-1)[:, answer_id].cpu()
    if not bool(torch.isfinite(probabilities).all()):
        raise TraceError(
            "the model's probabilities are not finite on this prompt: load it in a wider type (--dtype float32)"
        )
    return Baseline(
        prompt=prompt,
        noise=noise,
        sigma=sigma,
        answer_id=answer_id,
        probabilities=probabilities,
        embedded=first.input,
        states=states,
        keys_values=KeysValues.of(cache),
    )
