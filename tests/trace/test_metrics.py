"""Metrics pinned to their definitions by brute force."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from rome_engine.trace.metrics import METRICS, Question, measure


def brute(logits: list[list[float]], question: Question) -> list[float]:
    total, divergence, worst = 0.0, 0.0, 0
    for at, (row, token) in enumerate(zip(logits, question.answer, strict=True)):
        mass = sum(exp(value) for value in row)
        total += row[token] - log(mass)
        worst = max(worst, 1 + sum(value > row[token] for value in row))
        assert question.clean is not None
        for value, known in zip(row, question.clean[at].tolist(), strict=True):
            divergence += exp(known) * (known - (value - log(mass)))
    assert question.foil is not None
    return [exp(total), total, logits[0][question.answer[0]] - logits[0][question.foil], divergence, worst]


@pytest.mark.parametrize("answer", [(3,), (3, 1), (6, 6, 2)])
def test_every_metric_is_its_definition(answer: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(len(answer))
    logits = 3 * torch.randn(4, len(answer), 9, generator=generator)
    clean = torch.randn(len(answer), 9, generator=generator).log_softmax(-1)
    question = Question(answer, 5, clean)
    found = measure(logits.clone(), question)
    assert found.dtype == torch.float64 and found.shape == (4, len(METRICS))
    for row, one in zip(logits.double().tolist(), found.tolist(), strict=True):
        assert one == pytest.approx(brute(row, question), rel=1e-5, abs=1e-6)


def test_a_run_does_not_diverge_from_itself() -> None:
    logits = 20 * torch.randn(3, 1, 1000, generator=torch.Generator().manual_seed(0))
    for row in logits:
        found = measure(row[None].clone(), Question((4,), None, row.log_softmax(-1)))
        assert abs(float(found[0, METRICS.index("kl")])) < 1e-5


def test_what_is_not_asked_is_not_a_number() -> None:
    found = measure(torch.zeros(1, 1, 4), Question((0,)))
    assert found.isnan().tolist() == [[False, False, True, True, False]]
    assert float(found[0, 4]) == 1  # nothing is more probable


def test_half_precision_is_widened_before_anything_is_summed() -> None:
    logits = torch.randn(2, 1, 5000, generator=torch.Generator().manual_seed(1))
    half = measure(logits.half(), Question((7,)))
    assert half[:, 0].tolist() == pytest.approx(measure(logits.half().float(), Question((7,)))[:, 0].tolist(), rel=1e-6)
