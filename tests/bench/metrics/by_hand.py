"""Answers and records built by hand: what metrics read, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from rome_engine.bench.asks import Answer, Answers, Ask, Forced, ForcedAnswer, Next, NextAnswer
from rome_engine.bench.metrics import Metric, metrics
from rome_engine.bench.record import Question, Record

NOTHING = Answers({})


class Identity:
    """Hidden states are the logits."""

    device = torch.device("cpu")
    dtype = torch.float32

    def unembed(self, hidden: Tensor) -> Tensor:
        return hidden


def metric(name: str) -> Metric:
    return metrics()[name]


def record(*questions: Question, **parts: tuple[str, ...]) -> Record:
    return Record("case", (), questions, **parts)


def forced(found: Mapping[tuple[str, str], tuple[float, Iterable[bool]]]) -> Answers:
    """nll and hits by text and target."""
    return Answers({Forced(*key): ForcedAnswer(nll, tuple(hits)) for key, (nll, hits) in found.items()})


def next_tokens(found: Mapping[str, Iterable[float]]) -> Answers:
    """Logits by text."""
    return Answers({Next(text): NextAnswer(torch.tensor(tuple(row)), Identity()) for text, row in found.items()})


def value(name: str, case: Record, after: Answers = NOTHING, before: Answers = NOTHING) -> float | None:
    """The metric's figure, which reads only what it asked for."""
    asks: set[Ask] = set(metric(name).asks(case))
    assert asks <= set(after.found), "an ask that the test does not answer"
    return metric(name).value(case, _only(after, asks), _only(before, asks))


def _only(answers: Answers, asks: set[Ask]) -> Answers:
    kept: dict[Ask, Answer] = {ask: answer for ask, answer in answers.found.items() if ask in asks}
    return Answers(kept)
