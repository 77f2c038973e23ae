"""Correlations and explained variance of tracing effects and edit success, against plain regressions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from rome_engine.bench.locate_relation import _by_chance, _Sums, relation, relations
from rome_engine.bench.locate_result import SCORES, Array, Tracing
from rome_engine.bench.statistics import Estimate

FACTS, LAYERS = 24, 5


def pairs(slope: float, seed: int = 0, between: float = 2.0) -> tuple[Array, Array]:
    """Effects, and scores that follow the layer and `slope` times the effect."""
    random = np.random.default_rng(seed)
    effect = random.normal(size=(FACTS, LAYERS)) + np.arange(LAYERS)
    success = slope * effect + between * np.sin(np.arange(LAYERS)) + random.normal(size=(FACTS, LAYERS))
    return effect, success


def r2(columns: Array, values: Array) -> float:
    """Of least squares."""
    fitted = columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    return float(1 - ((values - fitted) ** 2).sum() / ((values - values.mean()) ** 2).sum())


def value(estimate: Estimate) -> float:
    assert estimate.value is not None
    return estimate.value


def interval(estimate: Estimate) -> tuple[float, float]:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


@pytest.mark.parametrize("holes", [False, True])
def test_explained_variance_is_that_of_least_squares(holes: bool) -> None:
    effect, success = pairs(0.3)
    if holes:
        success[3, 2] = success[7, 0] = np.nan
    found = relation(effect, success)
    there = np.isfinite(success)
    layer = np.broadcast_to(np.arange(LAYERS), there.shape)[there]
    dummies = np.eye(LAYERS)[layer]
    x, y = effect[there], success[there]
    assert value(found.r2_layer) == pytest.approx(r2(dummies, y))
    assert value(found.r2_tracing) == pytest.approx(r2(np.column_stack([np.ones_like(x), x]), y))
    assert value(found.r2_both) == pytest.approx(r2(np.column_stack([dummies, x]), y))
    assert value(found.gain) == pytest.approx(value(found.r2_both) - value(found.r2_layer))
    for at, one in enumerate(found.by_layer):
        some = there[:, at]
        assert one.n == some.sum()
        assert value(one) == pytest.approx(pearsonr(effect[some, at], success[some, at])[0])


def test_within_facts_it_is_the_mean_of_their_own_correlations() -> None:
    effect, success = pairs(0.5)
    success[4] = 1.0  # no correlation of its own
    found = relation(effect, success)
    facts = [fact for fact in range(FACTS) if fact != 4]
    assert found.pearson.n == found.spearman.n == FACTS - 1
    assert value(found.pearson) == pytest.approx(np.mean([pearsonr(effect[i], success[i])[0] for i in facts]))
    assert value(found.spearman) == pytest.approx(np.mean([spearmanr(effect[i], success[i])[0] for i in facts]))


def test_a_real_relation_is_found_and_none_is_not() -> None:
    real = relation(*pairs(1.0))
    assert real.p is not None and real.p < 0.01 and value(real.gain) > 0.1
    assert all(interval(one)[0] > 0 for one in real.by_layer)
    none = [relation(*pairs(0.0, seed)) for seed in range(4)]
    # A gain is never negative: its interval alone would call every relation real.
    assert all(interval(one.gain)[0] > 0 or value(one.gain) < 1e-3 for one in none)
    assert all(one.chance is not None and one.chance > 0 for one in none)


def test_shuffled_traces_are_a_fair_judge() -> None:
    """Without a relation p is uniform, also where a fact's layers depend on one another."""
    ps = []
    for seed in range(150):
        random = np.random.default_rng(seed)
        effect, success = (part + random.normal(size=(FACTS, 1)) for part in pairs(0.0, seed))
        gain = float(_Sums.of(effect, success).figures(np.ones((1, FACTS)))["gain"][0])
        ps.append(_by_chance(effect, success, gain, seed)[1])
    assert 0.4 < np.mean(ps) < 0.6 and np.mean(np.array(ps) < 0.05) < 0.12


def test_the_layer_alone_is_no_gain_of_tracing() -> None:
    """Effect and score that follow the layer, and nothing else, are one within facts and add nothing."""
    effect = np.tile(np.arange(LAYERS, dtype=float), (FACTS, 1))
    success = effect + np.random.default_rng(0).normal(size=effect.shape) * 0.01
    found = relation(effect, success)
    assert value(found.pearson) > 0.99 and value(found.r2_layer) > 0.99
    assert found.gain.value is None and found.p is None
    assert found.by_layer[0].value is None and found.by_layer[0].reason == "one of the two does not vary"


def test_whole_facts_are_drawn() -> None:
    """Each fact's layers repeated say nothing new: the interval stays as wide as it was."""
    effect, success = pairs(0.6, between=0.0)
    once, thrice = relation(effect, success), relation(np.tile(effect, 3), np.tile(success, 3))
    assert interval(thrice.r2_tracing) == pytest.approx(interval(once.r2_tracing))
    low, high = interval(once.r2_tracing)
    assert low < value(once.r2_tracing) < high


def test_scale_and_place_do_not_matter_and_seeds_do_not_change_values() -> None:
    effect, success = pairs(0.4)
    found, moved = relation(effect, success), relation(1e-3 * effect, 1e4 + 5 * success, seed=9)
    assert value(moved.gain) == pytest.approx(value(found.gain), rel=1e-6)
    assert relation(effect, success) == found


def test_constant_scores_say_nothing() -> None:
    effect, _ = pairs(0)
    found = relation(effect, np.ones_like(effect))
    assert found.r2_layer.value is None and found.gain.value is None and found.p is None
    assert found.pearson == Estimate(None, 0, reason="no fact's values vary")


def test_p_values_are_corrected_for_all_relations() -> None:
    effect, success = pairs(0.6)
    tracing = [Tracing("mlp", 10, effect, np.ones(FACTS)), Tracing("hidden", 1, -effect, np.ones(FACTS))]
    scores = {name: success if name != "es" else np.ones_like(success) for name in SCORES}
    found = relations(tracing, range(LAYERS), scores)
    assert [(one.tracing, one.score) for one in found] == [
        (name, score) for name in ("mlp, window 10", "hidden") for score in SCORES
    ]
    for one in found:
        if one.score == "es":
            assert one.p is one.p_corrected is None
        else:
            assert one.p is not None and one.p_corrected == pytest.approx(2 * (len(SCORES) - 1) * one.p)
