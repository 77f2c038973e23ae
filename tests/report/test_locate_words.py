"""Locate → edit in words: no claim goes beyond its numbers."""

from __future__ import annotations

from rome_engine.bench.statistics import Estimate
from rome_engine.report.locate_words import done, layers_of, p_value, shown, told
from tests.report.locates import FACTS, build_study

NOTHING = "Nothing here shows that a trace tells where to edit"


def test_without_a_relation_nothing_is_claimed() -> None:
    first, second, *_, last = shown(build_study())
    for sentence in (first, second):
        assert "which chance alone could explain" in sentence and f"{FACTS} facts × 4 layers" in sentence
    assert last.startswith(NOTHING)


def test_a_relation_alone_does_not_tell_where_to_edit() -> None:
    """Effects that raise the score a little at every layer hardly say which layer is best."""
    first, second, *_, last = shown(build_study(slope=0.35))
    assert "more than chance would" in first and "which chance alone could explain" in second
    assert "no trace is shown to choose a better layer" in last and "does not tell where to edit" in last


def test_a_trace_that_chooses_better_is_granted_that_and_no_more() -> None:
    found = build_study(knows=True)
    *_, last = shown(found)
    assert "its strongest trace (mlp, window 3) is better than at one layer for all" in last
    assert "hidden" not in last and "it was not measured" in last
    placed = shown(found)[2]
    traced = next(one for one in found.controls if one.name == "its strongest trace (mlp, window 3)")
    for name, difference in traced.differences.items():
        assert (told(difference, signed=True) in placed) == ("hidden" not in name)
    assert "against layer 2, the fixed depth" in placed and "against a random layer" in placed


def test_what_does_not_vary_is_said_to_tell_nothing() -> None:
    sentence = shown(build_study(score="es"))[0]
    assert sentence == "The tracing effect of mlp, window 3 cannot be related to the ES: one of the two does not vary."


def test_what_was_done_has_its_numbers() -> None:
    text = " ".join(done(build_study()))
    for words in (
        "30 of 40 facts of facts.json",
        "at least 0.05",
        "10 draws",
        "layers 1, 2, 4, 6",
        "drawn with seed 0",
    ):
        assert words in text


def test_figures() -> None:
    assert told(Estimate(0.5, 9, 0.4, 0.6)) == "0.500 [0.400, 0.600]"
    assert told(Estimate(0.5, 9, 0.4, 0.6), share=True) == "50.0% [40.0%, 60.0%]"
    assert told(Estimate(0.5, 9, reason="few")) == "0.500" and told(Estimate(None, 0)) == "–"
    assert [p_value(p) for p in (None, 0.0004, 0.04)] == ["–", "< 0.001", "0.040"]
    fixed = build_study().controls[1]
    assert layers_of(fixed) == "2"
    assert layers_of(build_study().controls[0]).endswith(", …")
