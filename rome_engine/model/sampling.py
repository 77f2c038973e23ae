"""What happens to logits while text is generated: broken ones are noticed, and a row's own seed decides its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from rome_engine.errors import NotFiniteError


class Sound(LogitsProcessor):
    """Lets logits through that can be compared. Raises NotFiniteError for others: any token would be the likeliest."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, d_vocab) scores of the next token, as they are."""
        if bool(scores.amax(-1).isnan().any()):  # which takes no array of their size
            raise NotFiniteError("not finite: the model's logits (float32 weights, or a weaker edit, may help)")
        return scores


class DrawnByRow(LogitsProcessor):
    """Leaves each row one token of its `top_k` likeliest, drawn by their probabilities with the row's own numbers."""

    def __init__(self, top_k: int, tokens: int, seeds: Sequence[int]) -> None:
        self._top_k = top_k
        self._drawn = torch.tensor(np.stack([np.random.default_rng(seed).random(tokens) for seed in seeds]))
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, d_vocab) scores of the next token; all but the chosen one become −∞, in place."""
        top = scores.float().topk(min(self._top_k, scores.shape[-1]))
        reached = top.values.softmax(-1).cumsum(-1)
        drawn = self._drawn[:, self._step, None].to(reached)
        self._step += 1
        place = (reached < drawn).sum(-1, keepdim=True).clamp(max=reached.shape[-1] - 1)
        return scores.fill_(-torch.inf).scatter_(1, top.indices.gather(1, place), 0.0)
