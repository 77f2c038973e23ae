"""What views draw: the patched run's value is neutral, strong cells are strong in every metric and direction."""

from __future__ import annotations

from collections.abc import Callable
from math import nan

import numpy as np
import pytest

from rome_engine.report.colour import NEUTRAL, ramp
from rome_engine.report.panel import trace_panel, trace_panels
from rome_engine.report.reading import limits, strongest, too_small
from rome_engine.trace.result import Trace, Values

Make = Callable[..., Trace]


def kl(make_trace: Make, **changes: object) -> Trace:
    """The usual trace with KL divergences that are small where probabilities are great."""
    return make_trace(metric="kl", scores=4 - 5 * make_trace().scores, high=0.0, low=3.5, **changes)


@pytest.mark.parametrize("direction", ["restore", "corrupt"])
@pytest.mark.parametrize("falling", [False, True])
def test_strong_cells_take_the_strong_colours(make_trace: Make, direction: str, falling: bool) -> None:
    trace = kl(make_trace, direction=direction) if falling else make_trace(direction=direction)
    panel, shade = trace_panel(trace), trace_panel(trace).shade()
    assert shade(panel.base) == NEUTRAL[False]
    best = strongest(trace)[0]
    effect = trace.indirect_effect * (-1 if falling else 1)
    assert effect[best.position, best.layer] == effect.max()
    assert shade(best.score) in ramp("hidden", 512)
    assert best.effect == pytest.approx(trace.indirect_effect[best.position, best.layer])
    against = panel.base + (-1 if panel.rising else 1) * (panel.top - panel.bottom) / 2
    assert shade(against) in ramp("hidden", 512, negative=True)


def test_corrupted_maps_start_at_the_clean_run(make_trace: Make) -> None:
    trace = make_trace(direction="corrupt")
    assert limits(trace) == (0.08, 0.8)
    best = strongest(trace)[0]
    assert (best.label, best.layer, best.score) == ("old", 1, 0.08)
    assert best.effect == pytest.approx(0.72)


def test_the_scale_never_blows_up_noise(make_trace: Make) -> None:
    flat = np.full((5, 4), 0.8)
    bottom, top = limits(make_trace(direction="corrupt", scores=flat))
    assert (bottom, top) == (pytest.approx(0.75), 0.8)
    bottom, top = limits(kl(make_trace, others={}))
    assert top - bottom >= 0.05 * 3.5
    still = make_trace(metric="rank", scores=np.ones((5, 4)), high=1.0, low=1.0)
    assert np.subtract(*limits(still)) < 0


def test_other_metrics_are_judged_by_their_probabilities(make_trace: Make) -> None:
    small = {"probability": Values(0.11, 0.1, make_trace().scores)}
    large = {"probability": Values(0.8, 0.1, make_trace().scores)}
    note = too_small(kl(make_trace, others=small))
    assert note is not None and "0.05" in note and "of probability +0.010" in note
    assert too_small(kl(make_trace, others=large)) is None
    assert too_small(kl(make_trace)) is None
    assert too_small(make_trace(metric="kl", low=nan)) is not None


def test_a_metric_of_a_trace_is_drawn_with_its_own_words(make_trace: Make) -> None:
    scores = np.log(make_trace().scores)
    trace = make_trace(others={"log_probability": Values(float(np.log(0.8)), float(np.log(0.1)), scores)})
    panel = trace_panel(trace.of("log_probability"))
    assert panel.measure == "log p(Japan)" and panel.bottom == pytest.approx(np.log(0.08))
    assert panel.warning is None


def test_tokens_that_were_not_asked_for_are_left_out(make_trace: Make) -> None:
    scores = make_trace().scores.copy()
    scores[[0, 2]] = nan
    scores[3, 1] = nan
    panel = trace_panel(make_trace(scores=scores))
    assert panel.rows == ("Fuji*", "in", "old") and panel.bold == (True, False, False)
    assert panel.notes == ("2 of 5 tokens were not asked for and are not shown.",)
    assert panel.strongest(1)[0].position == 2
    assert trace_panel(make_trace()).notes == ()


def test_panels_of_several_traces_say_what_differs(make_trace: Make) -> None:
    first, second = trace_panels([make_trace(), make_trace(corruption="swap", severed="mlp")])
    assert first.subtitle == "whole model · Gaussian noise" and second.subtitle == "MLP severed · subject swapped"
    assert trace_panel(make_trace()).subtitle == ""
    assert trace_panel(make_trace(severed="mlp")).subtitle == "MLP severed"
