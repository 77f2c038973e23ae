"""Names of maps: never two alike, and saying what differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from rome_engine.report.naming import caption, corruption_name, heading, layer_axis, map_names, measure
from rome_engine.report.trace_page import trace_page
from rome_engine.trace.result import Trace


def test_names_say_what_differs_and_nothing_else(trace: Trace) -> None:
    mlp = replace(trace, kind="mlp", window=10)
    assert map_names([trace, mlp]) == ["Hidden state", "MLP"]
    assert map_names([mlp, replace(mlp, window=5)]) == ["MLP, windows of 10 layers", "MLP, windows of 5 layers"]
    assert map_names([mlp, replace(mlp, severed="attn")]) == ["MLP, whole model", "MLP, attention severed"]
    assert map_names([trace, replace(trace, corruption="swap")]) == [
        "Hidden state, Gaussian noise",
        "Hidden state, subject swapped",
    ]
    both = [trace, replace(trace, direction="corrupt")]
    assert map_names(both) == ["Hidden state, restored", "Hidden state, corrupted"]
    heads = [replace(trace, kind="head", head=head) for head in (0, 3)]
    assert map_names(heads) == ["Head 0", "Head 3"]
    assert map_names([trace, trace]) == ["Hidden state 1", "Hidden state 2"]


def test_no_two_maps_have_the_same_name(trace: Trace) -> None:
    traces = [
        replace(trace, kind=kind, window=window, severed=severed, corruption=noise, direction=way, metric=metric)
        for kind, window, severed, noise, way, metric in product(
            ("mlp", "attn"), (1, 5), ("", "mlp", "attn@3:last"), ("gaussian:3s", "swap:Rome", "swap"),
            ("restore", "corrupt"), ("probability", "kl"),
        )
    ]  # fmt: skip
    assert len(set(map_names(traces))) == len(traces)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gaussian:3s", "Gaussian noise 3s"),
        ("uniform:0.2", "uniform noise 0.2"),
        ("covariance:1s", "covariance-matched noise 1s"),
        ("replace:3s", "replaced by noise 3s"),
        ("swap", "subject swapped"),
        ("swap:The Louvre", "subject swapped for The Louvre"),
    ],
)
def test_corruptions_in_words(text: str, words: str) -> None:
    assert corruption_name(text) == words


def test_a_swap_names_the_subject_that_was_found(trace: Trace) -> None:
    found = replace(trace, corruption="swap", provenance={"counterfactual": "Mount Etna"})
    assert map_names([trace, found])[1] == "Hidden state, subject swapped for Mount Etna"
    assert "Subject swapped for Mount Etna: the probability" in trace_page([found])


def test_corrupted_states_are_never_called_restored(make_trace: Callable[..., Trace]) -> None:
    trace = make_trace(kind="mlp", window=10, direction="corrupt")
    assert heading(trace) == "Corrupting the MLP output in windows of 10 layers"
    assert caption(trace) == "MLP corrupted, windows of 10 layers"
    assert layer_axis(trace) == "Centre of the corrupted layers"
    assert heading(make_trace(kind="head", head=4)) == "Restoring head 4 of one layer"
    assert heading(make_trace(kind="pre")) == "Restoring the input of one layer"


def test_measures_name_the_metric(make_trace: Callable[..., Trace]) -> None:
    assert measure(make_trace(answer=" Paris, France")) == "p(Paris, France)"
    assert measure(make_trace(metric="log_probability")) == "log p(Japan)"
    assert measure(make_trace(metric="logit_difference", foil=" China")) == "logit difference, Japan − China"
    assert "KL" in measure(make_trace(metric="kl"))
    assert measure(make_trace(metric="rank")) == "rank of Japan"
