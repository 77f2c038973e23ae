"""Corruption of the subject: Gaussian noise on the token embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import TraceError
from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.language_model import LanguageModel


@dataclass(frozen=True)
class Noise:
    """How strong the noise is: σ itself, or a multiple of the embeddings' standard deviation over some subjects."""

    sigma: float | None = None
    multiple: float | None = None

    @classmethod
    def parse(cls, text: str | float) -> Noise:
        """Of 3s, three standard deviations, or 0.35, σ itself. Raises TraceError for anything else, or not positive."""
        relative = isinstance(text, str) and text.strip().endswith("s")
        try:
            value = float(str(text).strip().removesuffix("s")) if relative else float(text)
        except ValueError as error:
            raise TraceError(
                f"the noise {text!r} is neither a number such as 0.35 nor a multiple such as 3s"
            ) from error
        if not (np.isfinite(value) and value > 0):
            raise TraceError(f"the noise must be positive, not {text}")
        return cls(multiple=value) if relative else cls(sigma=value)


@torch.no_grad()
def embedding_std(model: LanguageModel, subjects: Sequence[str]) -> float:
    """One pooled standard deviation over all embedding entries of subjects, each tokenised alone (Meng et al. 2022).

    It is that of the embedding module's output, so a model that scales its embeddings is seen as it works.
    """
    if not subjects:
        raise TraceError("the noise level needs at least one subject to measure the embeddings on")
    parts = []
    for subject in subjects:
        ids = torch.tensor([model.tokenizer(subject)["input_ids"]], device=model.device)
        with Hook(model.module, model.architecture.embedding, stop=True) as embedding:
            model.module(input_ids=ids, use_cache=False)
        parts.append(embedding.output.float().reshape(-1, embedding.output.shape[-1]))
    return float(torch.cat(parts).std())


def gaussian(samples: int, length: int, width: int, sigma: float, seed: int) -> Float[Tensor, "samples length width"]:
    """σ times standard normal noise, drawn by numpy's RandomState(seed) in this shape, as the original draws it."""
    draw = np.random.RandomState(seed).randn(samples, length, width)
    return torch.from_numpy(sigma * draw)
