"""Logit lens: what the model would say after each layer (nostalgebraist 2020, "interpreting GPT: the logit lens").

The residual stream after every layer, and what the first block is given (layer -1), goes through the final norm and the
unembedding as if it were the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from rome_engine.errors import TraceError
from rome_engine.files import plain
from rome_engine.model.activations import read
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.offload import in_memory
from rome_engine.model.tokens import BosPolicy
from rome_engine.trace import provenance

# Rows unembedded at once: the logits of a large vocabulary stay in memory that is reused.
ROWS = 128


@dataclass(frozen=True, eq=False)
class LensAnswer:
    """One answer's first token, its rank (1 is the top) and its probability, both of shape (layers, tokens)."""

    answer: str
    token: str
    token_id: int
    rank: NDArray[np.int64]
    probability: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lens:
    """What each layer would say at each token.

    `layers` counts from -1, what the first block is given. `top_ids`, `top_texts` and `top_probabilities` hold the k
    likeliest next tokens, shape (layers, tokens, k), the likeliest first. `entropy` is that of the whole distribution
    in nats, shape (layers, tokens).
    """

    model: str
    prompt: str
    tokens: tuple[str, ...]
    layers: tuple[int, ...]
    top_ids: NDArray[np.int64]
    top_texts: NDArray[np.object_]
    top_probabilities: NDArray[np.float64]
    entropy: NDArray[np.float64]
    answers: tuple[LensAnswer, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row a layer, token and answer."""
        return [
            {
                "layer": layer,
                "token": position,
                "text": text,
                "answer": answer.token,
                "answer_id": answer.token_id,
                "rank": int(answer.rank[row, position]),
                "probability": float(answer.probability[row, position]),
                "entropy": float(self.entropy[row, position]),
                "top": str(self.top_texts[row, position, 0]),
                "top_id": int(self.top_ids[row, position, 0]),
                "top_probability": float(self.top_probabilities[row, position, 0]),
            }
            for answer in self.answers
            for row, layer in enumerate(self.layers)
            for position, text in enumerate(self.tokens)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The lens as a JSON object; arrays are lists (layers, tokens[, k])."""
        record: dict[str, Any] = plain(self)
        return record


@torch.no_grad()
def lens(
    model: LanguageModel,
    prompt: str,
    *,
    answers: Sequence[str] = (),
    top: int = 5,
    bos: BosPolicy = "never",
    progress: Callable[[int, int], None] | None = None,
) -> Lens:
    """The logit lens of one prompt: the likeliest next tokens after each layer, and the rank of the answers.

    answers: texts whose first token is followed through the layers; without any, the model's own next token. top: how
    many tokens are kept a cell. bos: see `tokens.tokenize`. progress(done, total) is called with numbers of cells.
    Raises PromptError and its kinds, TraceError for a `top` that is not positive or states that are not finite.
    """
    if top < 1:
        raise TraceError(f"the lens keeps at least one token a cell, not {top}")
    tokenized = model.tokenize(prompt, bos=bos)
    asked = [(answer, model.target_ids(tokenized.text, answer)[0]) for answer in answers]
    states = _states(model, model.ids(tokenized))
    if not asked:
        own = int(model.unembed(states[-1, -1]).float().argmax())
        asked = [(model.text([own]), own)]
    found = _read_out(model, states, [token for _, token in asked], top, progress)
    texts = {int(token): model.text([int(token)]) for token in np.unique(found.top_ids)}
    return Lens(
        model=model.name,
        prompt=tokenized.text,
        tokens=tokenized.tokens,
        layers=tuple(range(-1, model.n_layers)),
        top_ids=found.top_ids,
        top_texts=np.vectorize(texts.__getitem__, otypes=[object])(found.top_ids),
        top_probabilities=found.top_probabilities,
        entropy=found.entropy,
        answers=tuple(
            LensAnswer(answer, model.text([token]), token, found.ranks[..., place], found.probabilities[..., place])
            for place, (answer, token) in enumerate(asked)
        ),
        provenance={
            **provenance.of(model, tokenized),
            "bos": bos,
            "top": top,
            "method": "logit lens: unembedding of the final norm of the residual stream; layer -1 is the first "
            "block's input",
            "entropy_unit": "nats",
        },
    )


def _states(model: LanguageModel, ids: Tensor) -> Float[Tensor, "layers tokens d_model"]:
    """The residual stream before the first block and after each one."""
    tensors, _ = read(model, ("embed", "blocks.*.hidden"), ids, model.module.base_model)
    last = tensors[f"blocks.{model.n_layers - 1}.hidden"].device
    return torch.cat([tensor.to(last) for tensor in tensors.values()])


@dataclass(frozen=True, eq=False)
class _ReadOut:
    top_ids: NDArray[np.int64]
    top_probabilities: NDArray[np.float64]
    entropy: NDArray[np.float64]
    ranks: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def _read_out(
    model: LanguageModel,
    states: Float[Tensor, "layers tokens d_model"],
    answers: Sequence[int],
    top: int,
    progress: Callable[[int, int], None] | None,
) -> _ReadOut:
    """Every cell's distribution, of which only what is asked for is kept; answers are the last dimension."""
    shape, flat = tuple(states.shape[:2]), states.flatten(0, 1)
    parts: list[list[Tensor]] = [[] for _ in range(5)]
    with in_memory(model.unembedding):
        for begin in range(0, len(flat), ROWS):
            for kept, part in zip(parts, _chunk(model, flat[begin : begin + ROWS], answers, top), strict=True):
                kept.append(part.cpu())
            if progress is not None:
                progress(min(begin + ROWS, len(flat)), len(flat))
    ids, likeliest, entropy, ranks, probabilities = (torch.cat(kept) for kept in parts)
    return _ReadOut(
        ids.reshape(*shape, -1).numpy().astype(np.int64),
        likeliest.reshape(*shape, -1).double().numpy(),
        entropy.reshape(shape).double().numpy(),
        ranks.reshape(*shape, -1).numpy().astype(np.int64),
        probabilities.reshape(*shape, -1).double().numpy(),
    )


def _chunk(
    model: LanguageModel, states: Float[Tensor, "rows d_model"], answers: Sequence[int], top: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Token ids and probabilities of the top, entropies, ranks and probabilities of the answers."""
    logits = model.unembed(states).float()  # (rows, d_vocab)
    if not bool(torch.isfinite(logits).all()):
        raise TraceError("the model's states are not finite on this prompt: load it in a wider type (--dtype float32)")
    logs = logits.log_softmax(-1)
    best = logs.topk(min(top, logs.shape[-1]))
    entropy = -(logs.exp() * logs).sum(-1)
    chosen = logits[:, list(answers)]
    ranks = torch.stack([1 + (logits > one[:, None]).sum(-1) for one in chosen.unbind(-1)], dim=-1)
    return best.indices, best.values.exp(), entropy, ranks, logs[:, list(answers)].exp()
