"""What several metrics share: a mean that is never one of nothing, and a record's questions as asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.bench.asks import Answers, Forced
from rome_engine.bench.record import Question, Record
from rome_engine.errors import NotFiniteError


def mean(values: Iterable[float]) -> float | None:
    """The arithmetic mean; None of nothing."""
    found = list(values)
    return fmean(found) if found else None


def first_answers(questions: Iterable[Question]) -> Iterator[Forced]:
    """Each question's first answer, which is the edit's target or its counterpart; questions without one are left out.

    Aliases are not tried: published teacher-forced figures read one target, and the best of many is a higher figure.
    """
    return (Forced(question.text, question.answers[0]) for question in questions if question.answers)


def compared(questions: Iterable[Question]) -> Iterator[tuple[Forced, Forced]]:
    """Each question's first answer and its rival; questions that lack either are left out."""
    for question in questions:
        if question.answers and question.rival is not None:
            yield Forced(question.text, question.answers[0]), Forced(question.text, question.rival)


def untouched(record: Record) -> list[str]:
    """The texts of the questions that the edit should not touch."""
    return [question.text for question in record.of("locality", "neighbourhood")]


def next_log_probs(answers: Answers, texts: Sequence[str]) -> Float[Tensor, "texts d_vocab"]:
    """Of every token after each of one or more texts, in float64: a small divergence would drown in float32's rounding.

    One product for all texts, since reading the unembedding is what takes the time.
    Raises NotFiniteError where a probability is NaN: no token is then the likeliest.
    """
    found = [answers.next(text) for text in texts]
    reader = found[0].reader
    with torch.no_grad():
        hidden = torch.stack([one.hidden for one in found]).to(reader.device, reader.dtype)
        log_probs = reader.unembed(hidden).cpu().double().log_softmax(-1)
    if bool(log_probs.isnan().any()):
        raise NotFiniteError("not finite: probabilities of next tokens")
    return log_probs
