from collections.abc import Callable
from math import inf, nan

import numpy as np
import pytest

from rome_engine.report.naming import heading
from rome_engine.report.reading import labels, limits, number, strongest, too_small, visible
from rome_engine.trace.average import SMALL_EFFECT
from rome_engine.trace.result import Trace


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0.40567, False, "0.406"),
        (0.40567, True, "+0.406"),
        (-0.25, True, "−0.250"),
        (-0.25, False, "−0.250"),
        (0.0, True, "0.000"),
        (0.000021, False, "2.1e-5"),
        (-0.000021, True, "−2.1e-5"),
        (nan, False, "–"),
        (inf, True, "–"),
        (-inf, False, "–"),
    ],
)
def test_numbers(value: float, signed: bool, text: str) -> None:
    assert number(value, signed=signed) == text


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (" Tower", "Tower"),
        ("\n", "↵"),
        (" \n", "↵"),
        ("  ", "␣␣"),
        ("", "∅"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a b", "a b"),
    ],
)
def test_every_token_has_a_visible_label(token: str, text: str) -> None:
    assert visible(token) == text


def test_only_the_subject_is_starred(trace: Trace) -> None:
    assert labels(trace) == ("Mount*", "Fuji*", "stands", "in", "old")


def test_the_window_is_named(make_trace: Callable[..., Trace]) -> None:
    assert heading(make_trace()) == "Restoring the hidden state of one layer"
    assert heading(make_trace(kind="mlp", window=10)) == "Restoring the MLP output in windows of 10 layers"


def test_the_strongest_cells_are_the_peaks_of_different_tokens(trace: Trace) -> None:
    first, second, _ = strongest(trace)
    assert (first.label, first.layer, first.score) == ("old", 3, 0.8)
    assert (second.label, second.layer, second.score) == ("Fuji*", 1, 0.52)
    assert second.effect == pytest.approx(0.42)


def test_missing_scores_are_never_the_strongest(make_trace: Callable[..., Trace]) -> None:
    scores = make_trace().scores.copy()
    scores[4, 3] = nan
    scores[0] = inf
    best = strongest(make_trace(scores=scores), 10)
    assert (best[0].label, best[0].layer) == ("Fuji*", 1)
    assert "Mount*" not in {cell.label for cell in best}
    assert strongest(make_trace(scores=np.full((5, 4), nan))) == ()


def test_the_scale_holds_every_score_and_the_lower_baseline(trace: Trace) -> None:
    assert limits(trace) == (0.08, 0.8)


def test_the_scale_does_not_blow_up_noise(make_trace: Callable[..., Trace]) -> None:
    bottom, top = limits(make_trace(scores=np.full((5, 4), 0.1001)))
    assert top - bottom >= SMALL_EFFECT
    assert limits(make_trace(scores=np.full((5, 4), nan), low=nan)) == (0.0, 1.0)


@pytest.mark.parametrize(("high", "small"), [(0.8, False), (0.151, False), (0.149, True), (0.05, True), (nan, True)])
def test_a_total_effect_too_small_is_said(make_trace: Callable[..., Trace], high: float, small: bool) -> None:
    note = too_small(make_trace(high=high))
    assert (note is not None) == small
    if note is not None:
        assert "too small to localise" in note and str(SMALL_EFFECT) in note
