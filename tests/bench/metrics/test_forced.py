"""Teacher-forced metrics against naive sums over random answers: success, magnitude, accuracy, token accuracy."""

from __future__ import annotations

from math import exp
from random import Random

import pytest

from rome_engine.bench.asks import Answers, Forced
from rome_engine.bench.metrics.portability import KINDS
from rome_engine.bench.record import Question, Record
from tests.bench.metrics.by_hand import forced, metric, record, value

ROLES = ("efficacy", "paraphrase", "neighbourhood", "locality")


def drawn(seed: int) -> tuple[Record, Answers, dict[tuple[str, str], tuple[float, list[bool]]]]:
    """Questions of every role, some without a rival, answers of one to four tokens."""
    random, questions, found = Random(seed), [], {}
    for number in range(24):
        text, role = f"text {number}", ROLES[number % 4]
        rival = None if number % 5 == 0 else "rival"
        questions.append(Question(role, text, ("right", "alias"), rival))
        for target in ("right", "rival"):
            found[text, target] = random.uniform(0, 5), [random.random() < 0.7 for _ in range(random.randint(1, 4))]
    return record(*questions), forced(found), found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("letter", "role"), [*zip("epn", ROLES[:3], strict=True)])
def test_forced_metrics_are_naive_sums(seed: int, letter: str, role: str) -> None:
    case, answers, found = drawn(seed)
    success = magnitude = compared = accurate = total = 0.0
    for question in case.questions:
        if question.about != role:
            continue
        (right, hits), (rival, _) = found[question.text, "right"], found[question.text, "rival"]
        total += 1
        accurate += 1 if False not in hits else 0
        if question.rival is not None:
            compared += 1
            success += 1 if right < rival else 0
            magnitude += exp(-right) - exp(-rival)
    assert 0 < compared < total
    assert value(f"{letter}s@1", case, answers) == pytest.approx(success / compared)
    assert value(f"{letter}m@1", case, answers) == pytest.approx(magnitude / compared)
    assert value(f"{letter}a@1", case, answers) == pytest.approx(accurate / total)


@pytest.mark.parametrize(
    ("name", "role"),
    [("zsre_efficacy@1", "efficacy"), ("zsre_paraphrase@1", "paraphrase"), ("zsre_specificity@1", "locality")],
)
def test_token_accuracy_is_a_mean_of_shares(name: str, role: str) -> None:
    case, answers, found = drawn(0)
    shares = []
    for question in case.questions:
        if question.about == role:
            hits = found[question.text, "right"][1]
            shares.append(len([hit for hit in hits if hit]) / len(hits))
    assert value(name, case, answers) == pytest.approx(sum(shares) / len(shares))


def test_a_long_answer_weighs_no_more_than_a_short_one() -> None:
    case = record(Question("efficacy", "a", ("x",)), Question("efficacy", "b", ("y",)))
    answers = forced({("a", "x"): (1.0, [True]), ("b", "y"): (1.0, [False, False, False])})
    assert value("zsre_efficacy@1", case, answers) == 0.5 != 1 / 4


def test_a_tie_is_no_success_in_any_role() -> None:
    case = record(*(Question(role, role, ("right",), "rival") for role in ROLES[:3]))
    tied = forced({(role, target): (2.0, [True]) for role in ROLES[:3] for target in ("right", "rival")})
    for letter in "epn":
        assert value(f"{letter}s@1", case, tied) == 0.0 == value(f"{letter}m@1", case, tied)


def test_a_rival_that_is_the_answer_is_no_success() -> None:
    case = record(Question("efficacy", "The capital is", ("Rome",), "Rome"))
    assert value("es@1", case, forced({("The capital is", "Rome"): (0.1, [True])})) == 0.0


def test_a_target_that_begins_another_is_another() -> None:
    case = record(Question("efficacy", "He plays", ("ice hockey",), "ice"))
    answers = forced({("He plays", "ice hockey"): (0.5, [True, True]), ("He plays", "ice"): (0.1, [True])})
    assert value("es@1", case, answers) == 0.0
    assert value("em@1", case, answers) == pytest.approx(exp(-0.5) - exp(-0.1))
    assert value("ea@1", case, answers) == 1.0


def test_accuracy_is_not_success() -> None:
    case = record(Question("efficacy", "It is", ("right",), "rival"))
    answers = forced({("It is", "right"): (3.0, [True, False]), ("It is", "rival"): (4.0, [False])})
    assert value("es@1", case, answers) == 1.0
    assert value("ea@1", case, answers) == 0.0
    assert value("zsre_efficacy@1", case, answers) == 0.5


def test_both_targets_are_asked_and_aliases_are_not() -> None:
    case = record(Question("paraphrase", "t", ("new", "alias"), "old"), Question("efficacy", "e", ("new",), "old"))
    assert set(metric("ps@1").asks(case)) == set(metric("pm@1").asks(case)) == {Forced("t", "new"), Forced("t", "old")}
    assert list(metric("pa@1").asks(case)) == list(metric("zsre_paraphrase@1").asks(case)) == [Forced("t", "new")]


def test_portability_over_all_kinds_and_by_kind() -> None:
    case = record(
        Question("portability:Reasoning", "r", ("x",)),
        Question("portability:Subject_Aliasing", "s", ("x",)),
        Question("portability:Logical Generalization", "l", ("x",)),
        Question("portability", "p", ("x",)),
        Question("locality:Reasoning", "other", ("x",)),
    )
    hits = {"r": [True, False], "s": [True], "l": [False], "p": [True, True, True, False], "other": [False]}
    answers = forced({(text, "x"): (1.0, found) for text, found in hits.items()})
    assert value("portability@1", case, answers) == pytest.approx((0.5 + 1 + 0 + 0.75) / 4)
    found = {kind: value(f"portability_{kind}@1", case, answers) for kind in KINDS}
    assert found == {**dict.fromkeys(KINDS), "reasoning": 0.5, "subject_aliasing": 1.0, "logical_generalization": 0.0}
