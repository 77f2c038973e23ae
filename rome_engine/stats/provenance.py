"""Where a second moment comes from: weights, layer, corpus and sampling, and the content key made of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from rome_engine.errors import StatisticsError

RECIPE = 1
"""Part of every content key: raised when collecting the same text would give other numbers than before."""

DEFAULT_TOKENS = 200_000
DEFAULT_LENGTH = 512
IMPORTED = "imported"
"""In the place of versions: of a moment that was collected by other programs."""


@dataclass(frozen=True)
class Sampling:
    """Which tokens of a corpus are read: a budget, the sequences' length, and the seed of the sample.

    Raises StatisticsError for a budget below 1 or a length below 2.
    """

    tokens: int = DEFAULT_TOKENS
    length: int = DEFAULT_LENGTH
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise StatisticsError(f"a second moment of {self.tokens} tokens cannot be collected: ask for at least 1")
        if self.length < 2:
            raise StatisticsError(f"sequences of {self.length} tokens have no context: ask for a length of at least 2")


@dataclass(frozen=True)
class Provenance:
    """What a second moment was collected from.

    weights, corpus, tokenizer are content hashes; tokens, length, seed are the sampling asked for. first_token_ratio is
    the norm of position 0's key relative to the median of the others; first_token_left_out says that it was an outlier
    and is not in the moment. model, corpus_name and versions are for people: no part of the key.
    """

    layer: int
    weights: str
    corpus: str
    tokenizer: str
    tokens: int
    length: int
    seed: int
    first_token_ratio: float
    first_token_left_out: bool
    model: str
    corpus_name: str
    versions: str

    @property
    def key(self) -> str:
        """The content key: see `content_key`."""
        sampling = Sampling(self.tokens, self.length, self.seed)
        return content_key(self.weights, self.layer, self.corpus, self.tokenizer, sampling)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file's header."""
        return {**asdict(self), "key": self.key}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Provenance:
        """The inverse of `to_dict`. Raises ValueError for missing, ill-typed or contradictory values."""
        types = get_type_hints(cls)
        given = {field.name: values.get(field.name) for field in fields(cls)}
        for name, value in given.items():
            if type(value) is not types[name]:
                raise ValueError(f"{name} is {value!r}")
        found = cls(**given)  # type: ignore[arg-type]
        if values.get("key") != found.key:
            raise ValueError("its key does not belong to its values")
        return found


def content_key(weights: str, layer: int, corpus: str, tokenizer: str, sampling: Sampling) -> str:
    """sha256 over all that decides a second moment's numbers. A model's name is no part of it."""
    parts = [RECIPE, weights, layer, corpus, tokenizer, sampling.tokens, sampling.length, sampling.seed]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def merged(first: Provenance | None, second: Provenance | None) -> Provenance | None:
    """The provenance of two moments' sum: the first's where both have one key (shards of one collection), else unknown.

    Raises StatisticsError where the two cannot be summed: other weights, layers, or policies for position 0.
    """
    if first is None or second is None:
        return None
    for name in ("weights", "layer", "first_token_left_out"):
        if getattr(first, name) != getattr(second, name):
            raise StatisticsError(
                f"second moments of different {name.replace('_', ' ')} cannot be merged "
                f"({getattr(first, name)}, {getattr(second, name)})"
            )
    return first if first.key == second.key else None
