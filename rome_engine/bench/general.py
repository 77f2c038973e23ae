"""General ability of a model as it is: the perplexity of a plain text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rome_engine.edit.health import WINDOW, perplexity_of, text_windows, window_nll
from rome_engine.errors import BenchError
from rome_engine.model.language_model import LanguageModel


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of a text: exp of the mean negative log-likelihood of its scored tokens.

    value: not finite where the model's numbers are not. nll: that mean, in nats a token. nll_standard_error: of it,
    with windows as the clusters (tokens of one text depend on one another); None for a single window. tokens: that are
    scored, all but each window's first. windows: how many. window: tokens of each but the last.
    """

    value: float
    nll: float
    nll_standard_error: float | None
    tokens: int
    windows: int
    window: int

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def perplexity(
    model: LanguageModel,
    text: str,
    *,
    tokens: int | None = None,
    window: int = WINDOW,
    progress: Callable[[int, int], None] | None = None,
) -> Perplexity:
    """The perplexity of a text's first `tokens` tokens (None: all) on the model as it is now; an edit is the caller's.

    The tokens are read in windows of `window` tokens, or of the model's context where that is shorter, one after the
    other without overlap and without a document-start token. Each window's first token has nothing before it and is
    not scored. Perplexities of other windows, or of another tokenizer, are other figures.
    progress(tokens read, of tokens) is called after each window.
    Raises BenchError for a window or a budget of less than two tokens, PromptError for a text of less than two tokens.
    """
    for name, value in (("window", window), ("token budget", tokens)):
        if value is not None and value < 2:
            raise BenchError(f"a {name} of {value} leaves no token to score: give at least 2")
    parts = text_windows(model, text, window, tokens)
    total, read = sum(part.shape[1] for part in parts), 0
    sums = []
    for part in parts:
        sums.append(window_nll(model, part))
        read += part.shape[1]
        if progress is not None:
            progress(read, total)
    losses, counts = np.array(sums, dtype=np.float64).T
    mean = float(losses.sum() / counts.sum())
    return Perplexity(
        value=perplexity_of(mean),
        nll=mean,
        nll_standard_error=_clustered(losses, counts, mean),
        tokens=int(counts.sum()),
        windows=len(parts),
        window=min(window, model.architecture.context or window),
    )


def _clustered(losses: np.ndarray, counts: np.ndarray, mean: float) -> float | None:
    """The standard error of Σ losses / Σ counts, windows being the clusters (Cochran 1977, section 6.4)."""
    clusters = len(losses)
    if clusters < 2:
        return None
    residuals = losses - mean * counts
    return float(np.sqrt(clusters / (clusters - 1) * (residuals**2).sum()) / counts.sum())
