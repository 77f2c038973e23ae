"""Locality and divergence compare with the untouched model: against naive loops over the vocabulary."""

from __future__ import annotations

from math import exp, inf, log, nan
from random import Random

import pytest

from rome_engine.bench.asks import Next
from rome_engine.bench.record import Question
from rome_engine.errors import NotFiniteError
from tests.bench.metrics.by_hand import metric, next_tokens, record, value

TEXTS = ("a", "b", "c", "d")
CASE = record(
    Question("locality:Forgetfulness", "a"),
    Question("neighbourhood", "b", ("true",), "new"),
    Question("neighbourhood", "c"),
    Question("locality", "d", ("x",)),
    Question("efficacy", "e", ("new",)),
)


def drawn(seed: int) -> dict[str, list[float]]:
    random = Random(seed)
    return {text: [random.gauss(0, 2) for _ in range(7)] for text in TEXTS}


def softmax(logits: list[float]) -> list[float]:
    total = sum(exp(one) for one in logits)
    return [exp(one) / total for one in logits]


def test_both_ask_the_next_token_of_what_should_stay() -> None:
    assert set(metric("kl@1").asks(CASE)) == set(metric("locality@1").asks(CASE)) == {Next(text) for text in TEXTS}


@pytest.mark.parametrize("seed", range(3))
def test_divergence_is_the_naive_sum(seed: int) -> None:
    before, after = drawn(seed), drawn(seed + 100)
    naive = 0.0
    for text in TEXTS:
        for p, q in zip(softmax(before[text]), softmax(after[text]), strict=True):
            naive += p * log(p / q)
    found = value("kl@1", CASE, next_tokens(after), next_tokens(before))
    assert found == pytest.approx(naive / 4, rel=1e-5) and naive > 0.1
    # It has a direction.
    assert value("kl@1", CASE, next_tokens(before), next_tokens(after)) != pytest.approx(naive / 4, rel=1e-2)


def test_agreement_is_the_share_of_equal_argmaxes() -> None:
    before = {text: [0.0, 1.0, 2.0] for text in TEXTS}
    after = {"a": [0.0, 1.0, 2.0], "b": [9.0, 8.0, 9.5], "c": [0.0, 3.0, 2.0], "d": [5.0, 1.0, 2.0]}
    assert value("locality@1", CASE, next_tokens(after), next_tokens(before)) == 0.5


def test_the_untouched_model_agrees_with_itself() -> None:
    answers = next_tokens(drawn(0))
    assert value("locality@1", CASE, answers, answers) == 1.0
    assert value("kl@1", CASE, answers, answers) == 0.0


def test_logits_shifted_by_a_constant_are_the_same_distribution() -> None:
    before = drawn(1)
    after = {text: [one + 3 for one in row] for text, row in before.items()}
    found = value("kl@1", CASE, next_tokens(after), next_tokens(before))
    assert found is not None and 0 <= found < 1e-9


def test_an_impossible_token_adds_nothing_and_one_made_impossible_everything() -> None:
    case = record(Question("locality", "a"))
    three, two = next_tokens({"a": [0.0, 1.0, 2.0]}), next_tokens({"a": [0.0, 1.0, -inf]})
    p, q = softmax([0.0, 1.0]), softmax([0.0, 1.0, 2.0])
    assert value("kl@1", case, three, two) == pytest.approx(sum(a * log(a / b) for a, b in zip(p, q, strict=False)))
    assert value("kl@1", case, two, three) == inf


@pytest.mark.parametrize("name", ["kl@1", "locality@1"])
def test_a_broken_distribution_is_no_small_divergence_and_no_disagreement(name: str) -> None:
    case = record(Question("locality", "a"))
    sound, broken = next_tokens({"a": [0.0, 1.0]}), next_tokens({"a": [nan, 1.0]})
    for after, before in ((broken, sound), (sound, broken)):
        with pytest.raises(NotFiniteError, match="probabilities of next tokens"):
            value(name, case, after, before)
