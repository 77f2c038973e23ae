"""A sample's sequences in batches, and the forward of a batch, which ends after the last layer that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rome_engine.model.hooks import TraceDict
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats.corpus import end_token

Batch = Sequence[list[int]]
"""Sequences of one length, as tokens."""

Take = Callable[[Float[Tensor, "rows tokens d_mlp"], Bool[Tensor, "rows tokens"]], None]
"""Is given a layer's keys, and which of them count."""


def batches(sequences: Iterator[list[int]], batch_tokens: int) -> Iterator[Batch]:
    """Sequences of one length together, up to so many tokens."""
    batch: list[list[int]] = []
    for sequence in sequences:
        if batch and (len(sequence) != len(batch[0]) or (len(batch) + 1) * len(sequence) > batch_tokens):
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


@torch.no_grad()
def pass_keys(model: LanguageModel, takers: Mapping[int, Take], batch: Batch) -> None:
    """One forward that hands over each layer's keys as they pass and keeps none of them."""
    ids = torch.tensor(batch, device=model.device)
    rows, length = ids.shape
    counted = torch.ones_like(ids, dtype=torch.bool)
    end = end_token(model.tokenizer)
    if end is not None:
        counted[:, 1:] = ids[:, 1:] != end
    down_projection = model.architecture.down_projection
    named = {model.architecture.path(layer, down_projection): take for layer, take in takers.items()}

    def take(keys: Tensor, name: str | None) -> Tensor:
        assert name is not None
        # Some families hand their MLP (rows · tokens, d_mlp).
        named[name](keys.reshape(rows, length, keys.shape[-1]), counted)
        return keys

    with TraceDict(model.module, named, retain_output=False, edit_input=take, stop=True):
        model.module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
