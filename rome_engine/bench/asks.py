"""What can be asked of a model, and what it answers: the terms in which metrics speak.

Metrics say what they need as asks; an answerer answers all that several metrics need of many records together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Forced:
    """A target, teacher-forced after a text."""

    text: str
    target: str


@dataclass(frozen=True)
class Next:
    """The distribution of the next token after a text."""

    text: str


@dataclass(frozen=True)
class Read:
    """A text that is read as it is, its first `tokens` tokens."""

    text: str
    tokens: int = 100


@dataclass(frozen=True)
class Generated:
    """Free text after a text, until the model ends it or `tokens` are there: greedy for top_k 0, else sampled."""

    text: str
    tokens: int
    top_k: int = 0
    seed: int = 0


Ask = Forced | Next | Read | Generated


@dataclass(frozen=True)
class ForcedAnswer:
    """nll: the mean negative log-likelihood of the target's tokens, in nats. hits: of each whether it is the argmax."""

    nll: float
    hits: tuple[bool, ...]

    @property
    def finite(self) -> bool:
        """Whether it can be compared: a comparison with NaN is only ever false."""
        return isfinite(self.nll)


@runtime_checkable
class Reader(Protocol):
    """What makes logits of hidden states; a model does."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def unembed(self, hidden: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_vocab"]: ...


@dataclass(frozen=True, eq=False)
class NextAnswer:
    """hidden: the last block's output at the text's last token, float32, on the CPU. reader: makes logits of it."""

    hidden: Float[Tensor, " d_model"]
    reader: Reader

    @property
    def finite(self) -> bool:
        """Whether logits can be made of it."""
        return bool(self.hidden.isfinite().all())

    def log_probs(self) -> Float[Tensor, " d_vocab"]:
        """Of every token, in float32."""
        with torch.no_grad():
            hidden = self.hidden.to(self.reader.device, self.reader.dtype)
            return self.reader.unembed(hidden[None])[0].float().log_softmax(-1).cpu()


@dataclass(frozen=True)
class ReadAnswer:
    """nll: the mean negative log-likelihood of the text's tokens but the first, in nats."""

    nll: float

    @property
    def finite(self) -> bool:
        """Whether it is a number."""
        return isfinite(self.nll)


@dataclass(frozen=True)
class GeneratedAnswer:
    """text: what came, with the space that is between it and the prompt, up to the first special token.

    ended: whether the model ended it, and not the number of tokens.
    """

    text: str
    ended: bool

    @property
    def finite(self) -> bool:
        """True: where logits are NaN nothing is generated (`LanguageModel.generate`)."""
        return True


_SAID: dict[type, str] = {Forced: "scores of answers", Next: "next tokens", Read: "scores of texts"}

Answer = ForcedAnswer | NextAnswer | ReadAnswer | GeneratedAnswer


class Answers:
    """The answers to some asks, by ask. Raises KeyError for an ask that was not made."""

    def __init__(self, found: Mapping[Ask, Answer]) -> None:
        self.found = found

    def odd(self) -> list[str]:
        """What of them is not finite, by kind and for people."""
        kinds = {type(ask) for ask, one in self.found.items() if not one.finite}
        return [said for kind, said in _SAID.items() if kind in kinds]

    def forced(self, text: str, target: str) -> ForcedAnswer:
        """Of a target after a text."""
        answer = self.found[Forced(text, target)]
        assert isinstance(answer, ForcedAnswer)
        return answer

    def next(self, text: str) -> NextAnswer:
        """Of a text's next token."""
        answer = self.found[Next(text)]
        assert isinstance(answer, NextAnswer)
        return answer

    def read(self, ask: Read) -> ReadAnswer:
        """Of a text that was read."""
        answer = self.found[ask]
        assert isinstance(answer, ReadAnswer)
        return answer

    def generated(self, ask: Generated) -> GeneratedAnswer:
        """Of free text."""
        answer = self.found[ask]
        assert isinstance(answer, GeneratedAnswer)
        return answer
