"""Rules for layers: what each chooses, and what it brings."""

from __future__ import annotations

import numpy as np
import pytest

from rome_engine.bench.locate_controls import BEST, RANDOM, at_depth, controls, traced_name
from rome_engine.bench.locate_result import SCORES, Array, Control, Tracing

LAYERS = (1, 4, 6)


def chosen(success: Array, effect: Array, seed: int = 0) -> dict[str, Control]:
    tracing = [Tracing("hidden", 1, effect, np.ones(len(effect)))]
    scores = dict.fromkeys(SCORES, success)
    return {one.name: one for one in controls(tracing, LAYERS, scores, "rewrite", 4, seed)}


def test_each_rule_takes_its_layers_score() -> None:
    random = np.random.default_rng(0)
    success, effect = random.random((30, 3)), random.random((30, 8))
    found = chosen(success, effect)
    assert list(found) == [RANDOM, at_depth(4), BEST, traced_name("hidden")]
    traced = found[traced_name("hidden")]
    assert traced.layers == tuple(LAYERS[place] for place in effect[:, LAYERS].argmax(1))
    assert found[at_depth(4)].layers == (4,) * 30 and set(found[RANDOM].layers) == set(LAYERS)
    for one in found.values():
        expected = [success[fact, LAYERS.index(layer)] for fact, layer in enumerate(one.layers)]
        assert one.scores["rewrite"].value == pytest.approx(np.mean(expected)) and one.scores["rewrite"].n == 30
        for other, difference in one.differences.items():
            theirs = found[other].scores["rewrite"].value
            assert difference.value == pytest.approx(one.scores["rewrite"].value - theirs)
    assert chosen(success, effect) == found != chosen(success, effect, seed=1)


def test_no_fact_chooses_its_own_best_layer() -> None:
    """Each fact works at a layer of its own: the others' choice misses it every time."""
    success = np.eye(3)
    found = chosen(success, np.zeros((3, 8)))
    assert found[BEST].scores["rewrite"].value == 0


def test_a_trace_that_knows_better_is_seen() -> None:
    random = np.random.default_rng(1)
    places = random.integers(3, size=40)
    success = np.eye(3)[places] * 0.8 + 0.1 * random.random((40, 3))
    effect = np.zeros((40, 8))
    effect[:, LAYERS] = np.eye(3)[places]
    difference = chosen(success, effect)[traced_name("hidden")].differences[at_depth(4)]
    assert difference.low is not None and difference.low > 0.2


def test_refused_edits_are_counted_out() -> None:
    success = np.full((5, 3), 0.5)
    success[:, 1] = [0.1, 0.2, np.nan, 0.3, 0.4]
    one = chosen(success, np.zeros((5, 8)))[at_depth(4)]
    assert one.scores["rewrite"].n == 4 and one.scores["rewrite"].value == pytest.approx(0.25)
    assert one.differences[BEST].n == 4
