"""Sampling in which a row's seed alone decides what it is given, whatever batch it is in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor


class DrawnByRow(LogitsProcessor):
    """Leaves each row one token of its `top_k` likeliest, drawn by their probabilities with the row's own numbers."""

    def __init__(self, top_k: int, tokens: int, seeds: Sequence[int]) -> None:
        self._top_k = top_k
        self._drawn = torch.tensor(np.stack([np.random.default_rng(seed).random(tokens) for seed in seeds]))
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, d_vocab) scores of the next token; all but the chosen one become −∞."""
        top = scores.float().topk(min(self._top_k, scores.shape[-1]))
        reached = top.values.softmax(-1).cumsum(-1)
        drawn = self._drawn[:, self._step, None].to(reached)
        self._step += 1
        place = (reached < drawn).sum(-1, keepdim=True).clamp(max=reached.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, top.indices.gather(1, place), 0.0)
