"""Attention keys and values of the beginnings of many texts: what several of them begin with is run once.

The prompts of many facts in the same contexts begin with the contexts, and differ in their last few tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replay import KeysValues

Ids = tuple[int, ...]

# A call costs about as much as this many more tokens.
_CALL = 64


@torch.no_grad()
def keys_values(model: LanguageModel, texts: Sequence[Ids]) -> KeysValues:
    """Of these texts, a row each, padded on the left with zeros to the longest."""
    own = _own(texts)
    begins = [text[: max(0, len(text) - own)] for text in texts]
    rest = [text[len(begin) :] for text, begin in zip(texts, begins, strict=True)]
    shared: KeysValues | None = None
    if any(begins):
        distinct, source = _distinct(begins)
        found = _run(model, distinct, None, torch.ones(len(distinct), 0, dtype=torch.long))
        shared = _aligned(found, source, [0] * len(begins), [len(begin) for begin in begins])
        if not any(rest):
            return shared
    width = max(map(len, begins))
    lengths = torch.tensor([len(begin) for begin in begins])
    real = (torch.arange(width) >= width - lengths[:, None]).long()
    found = _run(model, rest, shared, real)
    return _aligned(
        found, list(range(len(texts))), [width - len(begin) for begin in begins], [len(text) for text in texts]
    )


def _own(texts: Sequence[Ids]) -> int:
    """How many of the last tokens are best run for each text alone."""
    longest = max(map(len, texts))

    def cost(own: int) -> int:
        begins = [text[: max(0, len(text) - own)] for text in texts]
        distinct, _ = _distinct(begins)
        width = max(map(len, begins))
        return len(distinct) * width + len(texts) * own + _CALL * ((width > 0) + (own > 0))

    return min(range(longest + 1), key=cost)


def _distinct(texts: Sequence[Ids]) -> tuple[list[Ids], list[int]]:
    """The texts that no other begins with, and for each text the one that begins with it."""
    distinct: list[Ids] = []
    place: dict[Ids, int] = {}
    for text in sorted(set(texts), reverse=True):  # a text comes right behind those that begin with it
        if not distinct or distinct[-1][: len(text)] != text:
            distinct.append(text)
        place[text] = len(distinct) - 1
    return distinct, [place[text] for text in texts]


def _run(
    model: LanguageModel, texts: Sequence[Ids], before: KeysValues | None, real: Int[Tensor, "rows begun"]
) -> KeysValues:
    """Keys and values of texts with others before them; padding behind a text is seen by none of its tokens."""
    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=model.device)
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(before.layers if before is not None else ()):
        cache.update(keys, values, layer)
    base: Any = model.module.base_model
    extra: dict[str, Tensor] = {}
    if "position_ids" in inspect.signature(base.forward).parameters:
        extra["position_ids"] = (real.sum(-1, keepdim=True) + torch.arange(longest)).to(model.device)
    mask = torch.cat([real.to(model.device), torch.ones_like(ids)], dim=1)
    base(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
    return KeysValues.of(cache)


def _aligned(found: KeysValues, source: Sequence[int], begin: Sequence[int], length: Sequence[int]) -> KeysValues:
    """Of each text the `length` tokens from `begin` on of row `source`, moved to the right end."""
    width = max(length)
    row, first, count = (torch.tensor(list(numbers))[:, None] for numbers in (source, begin, length))
    columns = torch.arange(width) - (width - count)
    real = columns >= 0
    columns = first + columns.clamp_min(0)
    return KeysValues(
        tuple((_picked(keys, row, columns, real), _picked(values, row, columns, real)) for keys, values in found.layers)
    )


def _picked(
    states: Tensor, row: Int[Tensor, "rows 1"], columns: Int[Tensor, "rows width"], real: Bool[Tensor, "rows width"]
) -> Tensor:
    device = states.device
    picked = states.transpose(1, 2)[row.to(device), columns.to(device)]  # (rows, width, heads, d_head)
    return picked.masked_fill(~real.to(device)[..., None, None], 0).transpose(1, 2).contiguous()
