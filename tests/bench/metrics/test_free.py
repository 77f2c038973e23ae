"""Free answers: where they stop, how they are compared, and which questions count."""

from __future__ import annotations

import pytest

from rome_engine.bench.asks import Answers, Forced, Generated, GeneratedAnswer
from rome_engine.bench.metrics.normalise import begins, exact, natural, normalise
from rome_engine.bench.record import Question
from tests.bench.metrics.by_hand import forced, metric, record, value


def said(**texts: str) -> Answers:
    return Answers({Generated(text, 32): GeneratedAnswer(answer, False) for text, answer in texts.items()})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Paris. It is", "Paris"),
        ("Paris\nRome", "Paris"),
        ("\n\n Paris\n", "Paris"),
        ("Paris", "Paris"),
        (" St. Louis, Missouri. It", "St. Louis, Missouri"),
        (" J. K. Rowling. She", "J. K. Rowling"),
        (" the U.S. state of Ohio! Yes", "the U.S. state of Ohio"),
        (" 3.5 km? No", "3.5 km"),
        (" the first. The second. The third.", "the first"),
        ("", ""),
    ],
)
def test_where_an_answer_stops(text: str, expected: str) -> None:
    assert natural(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel-Tower, Paris!", "eiffeltower paris"),
        ("An apple a day", "apple day"),
        ("Theatre", "theatre"),
        ("“Señor” O’Neill", "señor oneill"),
        ("$5", "5"),
        ("The The", "the the"),
        ("...", ""),
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    assert " ".join(normalise(text)) == expected


def test_matching() -> None:
    assert exact(" the Rome.", ["Rome"]) and begins(" the Rome.", ["Rome"])
    assert not exact(" Rome, Italy.", ["Rome"]) and begins(" Rome, Italy.", ["Rome"])
    assert not begins(" Romeo.", ["Rome"])
    assert not begins(" New York", ["New York City"]) and not exact(" New York", ["New York City"])
    assert not begins(" It is Rome", ["Rome"])
    assert exact(" NYC", ["New York City", "N.Y.C."])
    # A full stop may belong to the answer, and an answer's last letter is no initial.
    assert exact(" 2. Bundesliga. It", ["2. Bundesliga"]) and begins(" 2. Bundesliga", ["2. Bundesliga"])
    assert exact(" World War I. It began in 1914.", ["World War I"]) and not exact(" World War I", ["World War"])
    assert not exact(" 2. Bundesliga is a league", ["2. Bundesliga"])
    # What has no words is nobody's answer, also where nothing was said.
    for match in (exact, begins):
        assert not match("", ["?"]) and not match(" Rome", ["?"]) and not match("", ["Rome"])


def test_free_answers_are_shares_of_a_roles_questions() -> None:
    case = record(
        Question("efficacy", "a", ("Rome",)),
        Question("efficacy", "b", ("Paris", "City of Light")),
        Question("efficacy", "c", ("Oslo",)),
        Question("efficacy", "d"),
        Question("paraphrase", "p", ("Rome",)),
        Question("paraphrase", "q", ("Rome",)),
        Question("portability:Reasoning", "x", ("Italian",)),
        Question("portability:Aliases", "y", ("Lazio",)),
    )
    follow = {"x": " Italian, of course.", "y": " Latin"}
    answers = said(a=" Rome. Rome is", b=" the City of Light", c=" Oslo and Bergen", p=" Milan", q=" Rome\n", **follow)
    assert value("free_em@1", case, answers) == pytest.approx(2 / 3)
    assert value("free_begins@1", case, answers) == 1.0
    assert value("free_pem@1", case, answers) == 0.5 == value("free_portability@1", case, answers)
    assert list(metric("free_em@1").asks(case)) == [Generated(text, 32) for text in "abc"]


def test_a_multi_hop_case_counts_once_any_question_is_answered() -> None:
    case = record(
        Question("multi-hop", "a", ("Arabic", "ar")),
        Question("multi-hop", "b", ("Arabic", "ar")),
        Question("single-hop", "s", ("Madonna",)),
        Question("single-hop", "t", ("Egypt",)),
    )
    rest = {"s": " Madonna.", "t": " Madonna."}
    assert value("multihop@1", case, said(a=" French", b=" AR.", **rest)) == 1.0
    assert value("multihop@1", case, said(a=" Arabic", b=" French", **rest)) == 1.0
    assert value("multihop@1", case, said(a=" French", b=" English", **rest)) == 0.0
    longer = said(a=" Arabic, of course", b=" Argentina", **rest)
    assert value("multihop@1", case, longer) == 0.0 and value("multihop_begins@1", case, longer) == 1.0
    assert value("singlehop@1", case, longer) == 0.5


def test_forced_multi_hop_wants_all_tokens_of_one_alias() -> None:
    case = record(Question("multi-hop", "a", ("x y", "z")), Question("multi-hop", "b", ("x y", "z")))
    assert set(metric("multihop_forced@1").asks(case)) == {Forced(text, one) for text in "ab" for one in ("x y", "z")}
    none = {("a", "x y"): (1.0, [True, False]), ("a", "z"): (1.0, [False])}
    none |= {("b", "x y"): (1.0, [False, True]), ("b", "z"): (1.0, [False])}
    assert value("multihop_forced@1", case, forced(none)) == 0.0
    assert value("multihop_forced@1", case, forced(none | {("b", "z"): (9.0, [True])})) == 1.0
