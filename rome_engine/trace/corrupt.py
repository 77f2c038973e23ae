"""Corruption of the subject: noise on its token embeddings, or another subject in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import TraceError
from rome_engine.model.language_model import LanguageModel

Kind = Literal["gaussian", "uniform", "covariance", "replace", "swap"]

HELP = "3s, 0.35, gaussian:3s, uniform:3s, covariance:3s, replace:3s, swap or swap:OTHER SUBJECT"


@dataclass(frozen=True)
class Corruption:
    """How the subject is corrupted.

    kind: "gaussian" and "uniform" add noise of this level to the embeddings (σ, or the amplitude of a draw from
    [-1, 1]); "replace" puts Gaussian noise in their place; "covariance" adds Gaussian noise with the covariance of the
    embeddings over a list of subjects, `level` times its spread; "swap" is symmetric token replacement (Zhang & Nanda
    2023): another subject of as many tokens, `subject`, or one that is looked for.
    `relative`: the level is a multiple of the embeddings' pooled standard deviation.
    """

    kind: Kind = "gaussian"
    level: float = 3.0
    relative: bool = True
    subject: str | None = None

    @classmethod
    def parse(cls, text: str | float) -> Corruption:
        """Of "3s" (three standard deviations), 0.35 (σ itself), "uniform:3s", "swap:The Louvre" and their like.

        Raises TraceError for anything else, or a level that is not positive.
        """
        kind, colon, rest = str(text).strip().partition(":")
        if kind not in get_args(Kind):
            kind, colon, rest = "gaussian", ":", str(text).strip()
        if kind == "swap":
            if colon and not rest.strip():
                raise TraceError("the other subject after swap: is empty: name it, or write swap alone")
            return cls("swap", 0.0, False, rest.strip() or None)
        relative = rest.endswith("s") or kind == "covariance"
        try:
            level = float(rest.removesuffix("s")) if colon else 3.0
        except ValueError as error:
            raise TraceError(f"the noise {str(text)!r} cannot be read: write {HELP}") from error
        if not (np.isfinite(level) and level > 0):
            raise TraceError(f"the noise must be positive, not {text}")
        return cls(kind, level, relative or not colon)  # type: ignore[arg-type]

    def __str__(self) -> str:
        if self.kind == "swap":
            return "swap" if self.subject is None else f"swap:{self.subject}"
        unit = "s" if self.relative else ""
        return f"{self.kind}:{repr(float(self.level)).removesuffix('.0')}{unit}"  # no digit is lost


@dataclass(frozen=True, eq=False)
class Drawn:
    """What the corrupted rows see, for one prompt: their token ids, and noise on the subject's embeddings.

    `ids` has one row a sample. `noise` is added to the token embedding's output over the subject's tokens, or put in
    its place where `replaces`; None for a swap, whose ids differ instead. `level` is σ or the amplitude in embedding
    units, `subject` the other subject of a swap.
    """

    ids: tuple[tuple[int, ...], ...]
    noise: Float[Tensor, "samples length width"] | None = None
    replaces: bool = False
    level: float = 0.0
    subject: str | None = None

    @property
    def samples(self) -> int:
        return len(self.ids)


@torch.no_grad()
def embeddings(model: LanguageModel, subjects: Sequence[str]) -> Float[Tensor, "tokens width"]:
    """The token embeddings of subjects, each tokenised alone: the embedding module's output, scaled as it scales."""
    if not subjects:
        raise TraceError("the noise level needs at least one subject to measure the embeddings on")
    ids = [token for subject in subjects for token in model.tokenizer(subject)["input_ids"]]
    embedded: Tensor = model.embedding(torch.tensor([ids], device=model.device))
    return embedded[0].float()


def embedding_std(model: LanguageModel, subjects: Sequence[str]) -> float:
    """One pooled standard deviation over all embedding entries of some subjects (Meng et al. 2022, code)."""
    return float(embeddings(model, subjects).std())


def gaussian(samples: int, length: int, width: int, sigma: float, seed: int) -> Float[Tensor, "samples length width"]:
    """σ times standard normal noise, drawn by numpy's RandomState(seed) in this shape, as the original draws it."""
    draw = np.random.RandomState(seed).randn(samples, length, width)
    return torch.from_numpy(sigma * draw)


def draw(corruption: Corruption, spread: Spread, ids: Sequence[int], length: int, samples: int, seed: int) -> Drawn:
    """The corrupted rows of a prompt whose subject has `length` tokens; kind "swap" is drawn elsewhere."""
    level = corruption.level * spread.std if corruption.relative else corruption.level
    random = np.random.RandomState(seed)
    noise: Any
    match corruption.kind:
        case "gaussian" | "replace":
            noise = gaussian(samples, length, spread.width, level, seed)
        case "uniform":
            noise = torch.from_numpy(level * random.uniform(-1, 1, (samples, length, spread.width)))
        case "covariance":
            centred = spread.centred()
            mixed = random.randn(samples, length, centred.shape[0]) @ centred
            # A multiple: the rows bring their own spread.
            noise = torch.from_numpy(corruption.level * mixed / np.sqrt(max(1, centred.shape[0] - 1)))
        case _:
            raise TraceError(f"{corruption} is no noise")
    return Drawn((tuple(ids),) * samples, noise, corruption.kind == "replace", level)


class Spread:
    """How the embeddings of a list of subjects spread: measured when first asked."""

    def __init__(self, model: LanguageModel, subjects: Sequence[str]) -> None:
        self._model, self._subjects = model, tuple(subjects)
        self._embeddings: Tensor | None = None
        embedding: Any = model.embedding
        self.width = int(embedding.weight.shape[-1])

    @property
    def count(self) -> int:
        return len(self._subjects)

    def rows(self) -> Tensor:
        if self._embeddings is None:
            self._embeddings = embeddings(self._model, self._subjects)
        return self._embeddings

    @property
    def std(self) -> float:
        return float(self.rows().std())

    def centred(self) -> Any:
        """Embeddings less their mean, (tokens, width): a Gaussian mixture of these rows has their covariance."""
        rows = self.rows().double()
        return (rows - rows.mean(0)).cpu().numpy()
