"""Averages over facts: role means by brute force, facts as clusters, peaks, thresholds, and no mean of nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from rome_engine.errors import TraceError
from rome_engine.trace import Settings, Trace, Tracer
from rome_engine.trace.average import Average, Counts, Left
from rome_engine.trace.average_map import AverageMap
from rome_engine.trace.averaging import average
from rome_engine.trace.metrics import METRICS
from rome_engine.trace.per_fact import FactMaps
from rome_engine.trace.result import Values
from rome_engine.trace.roles import ROLES
from tests import tiny
from tests.trace.known_facts import known_facts

LAYERS = 3


def hand_made(
    seed: int = 0,
    tokens: int = 9,
    subject: tuple[int, int] = (1, 5),
    high: float = 0.9,
    low: float = 0.1,
    **changed: Any,
) -> Trace:
    """A trace of random scores, in the metrics probability and kl."""
    random = np.random.default_rng(seed)
    given: dict[str, Any] = {
        **{"model": "m", "prompt": "p", "subject": "s", "answer": "a", "kind": "hidden", "window": 1, "seconds": 0.0},
        **{"noise_sigma": 0.1, "samples": 4, "seed": 1, "engine": "fast", "tokens": ("t",) * tokens},
        **{"subject_range": subject, "high": high, "low": low, "corruption": "gaussian:3s"},
        "scores": random.uniform(0, 1, (tokens, LAYERS)),
        "deviation": random.uniform(0, 0.2, (tokens, LAYERS)),
        "others": {"kl": Values(0.0, 3.0, random.uniform(0, 3, (tokens, LAYERS)), np.full((tokens, LAYERS), 0.1))},
    }
    return Trace(**{**given, **changed})


def facts_of(*traces: Trace) -> list[tuple[str | None, FactMaps]]:
    return [(f"fact {index}", FactMaps.of([trace])) for index, trace in enumerate(traces)]


def averaged(facts: list[tuple[str | None, FactMaps]], **options: Any) -> Average:
    counts = Counts(records=len(facts), known=len(facts), traced=len(facts))
    return average(facts, counts, **{"resamples": 1000, **options})


# Roles

PLACES = [
    # tokens, subject, the positions of each role
    (9, (1, 5), ([1], [2, 3], [4], [5], [6, 7], [8])),
    (5, (0, 1), ([], [], [0], [1], [2, 3], [4])),
    (4, (1, 3), ([1], [], [2], [], [], [3])),  # what follows the subject is the last token
    (3, (1, 3), ([1], [], [2], [], [], [])),  # the subject ends the prompt
]


@pytest.mark.parametrize(("tokens", "subject", "places"), PLACES)
@pytest.mark.parametrize("direction", ["restore", "corrupt"])
def test_role_means_by_brute_force(
    tokens: int, subject: tuple[int, int], places: tuple[list[int], ...], direction: str
) -> None:
    trace = hand_made(tokens=tokens, subject=subject, direction=direction)
    maps = FactMaps.of([trace])
    assert maps.effect.shape == maps.noise.shape == (1, len(METRICS), len(ROLES), LAYERS)
    for metric in ("probability", "kl"):
        shown, column = trace.of(metric), METRICS.index(metric)
        assert (maps.high[0, column], maps.low[0, column]) == (shown.high, shown.low)
        for role, positions in enumerate(places):
            for layer in range(LAYERS):
                effects = [
                    shown.scores[at, layer] - shown.low
                    if direction == "restore"
                    else shown.high - shown.scores[at, layer]
                    for at in positions
                ]
                assert shown.deviation is not None
                noise = [float(shown.deviation[at, layer]) ** 2 / shown.samples for at in positions]
                found = maps.effect[0, column, role, layer], maps.noise[0, column, role, layer]
                if positions:
                    assert found == pytest.approx((sum(effects) / len(effects), sum(noise) / len(noise)))
                else:
                    assert np.isnan(found).all()
    for metric in ("log_probability", "logit_difference", "rank"):  # not measured here
        assert np.isnan(maps.effect[0, METRICS.index(metric)]).all()


def test_cells_that_were_not_asked_for_are_left_out_of_a_role() -> None:
    trace = hand_made()
    scores = trace.scores.copy()
    scores[2] = np.nan
    maps = FactMaps.of([replace(trace, scores=scores)])
    np.testing.assert_allclose(maps.effect[0, 0, 1], trace.scores[3] - trace.low)


def test_noise_that_one_draw_cannot_tell_is_unknown_and_a_swap_has_none() -> None:
    one = FactMaps.of([hand_made(samples=1, deviation=np.zeros((9, LAYERS)))])
    swap = FactMaps.of([hand_made(samples=1, deviation=np.zeros((9, LAYERS)), corruption="swap")])
    assert np.isnan(one.noise[0, 0]).all() and (swap.noise[0, 0] == 0).all()
    assert np.isnan(averaged([("a", one), ("b", one)]).maps[0].noise_se).all()


def test_bytes_lose_no_bit() -> None:
    maps = FactMaps.of([hand_made(), hand_made(1, kind="head", head=2, severed="mlp")])
    again = FactMaps.from_bytes(maps.to_bytes())
    assert again.labels == maps.labels and again.noise_sigma == maps.noise_sigma and again.engine == maps.engine
    for name in ("effect", "noise", "high", "low"):
        assert getattr(again, name).tobytes() == getattr(maps, name).tobytes()


# Means and bands


def test_means_noise_and_totals_by_brute_force() -> None:
    traces = [hand_made(seed, high=0.5 + seed / 20, subject=(1, 5) if seed % 2 else (1, 2)) for seed in range(6)]
    facts = facts_of(*traces)
    (found,) = averaged(facts).maps
    values = [maps.effect[0, 0] for _, maps in facts]
    noise = [maps.noise[0, 0] for _, maps in facts]
    assert found.facts.tolist() == [3, 3, 6, 6, 6, 6] and found.averaged == 6
    for role in range(len(ROLES)):
        there = [index for index in range(6) if not np.isnan(values[index][role, 0])]
        for layer in range(LAYERS):
            mean = sum(values[index][role, layer] for index in there) / len(there)
            error = sum(noise[index][role, layer] for index in there) ** 0.5 / len(there)
            assert (found.mean[role, layer], found.noise_se[role, layer]) == pytest.approx((mean, error))
    assert found.total_effect == pytest.approx(np.mean([trace.total_effect for trace in traces]))
    assert (found.high, found.low) == pytest.approx((np.mean([trace.high for trace in traces]), 0.1))
    assert found.total_low < found.total_effect < found.total_high
    inner = found.mean[2:]
    assert (found.band_low[2:] < inner).all() and (inner < found.band_high[2:]).all()


def test_facts_are_the_clusters() -> None:
    """Twice the tokens of every fact leave the band as it is; twice the facts narrow it (the negative control)."""
    short = [hand_made(seed, tokens=9) for seed in range(8)]
    doubled = []
    for trace in short:
        rows = [0, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 7, 8]  # every middle and further token twice
        assert trace.deviation is not None
        doubled.append(
            replace(
                trace,
                tokens=("t",) * 13,
                subject_range=(1, 7),
                scores=trace.scores[rows],
                deviation=trace.deviation[rows],
                others={},
            )
        )
    once, twice = (averaged(facts_of(*traces)).maps[0] for traces in (short, doubled))
    for name in ("mean", "band_low", "band_high", "noise_se"):
        np.testing.assert_allclose(getattr(once, name), getattr(twice, name), rtol=1e-12)
    more = averaged(facts_of(*short, *short)).maps[0]
    assert ((more.band_high - more.band_low) < 0.85 * (once.band_high - once.band_low)).mean() > 0.9


def test_one_fact_has_no_band() -> None:
    (found,) = averaged(facts_of(hand_made())).maps
    assert np.isnan(found.band_low).all() and np.isnan(found.total_low) and not np.isnan(found.mean).any()


# Peaks


def test_peaks_are_each_facts_strongest_role_and_layer() -> None:
    def peaked(at: int, layer: int) -> Trace:
        scores = np.full((9, LAYERS), 0.2)
        scores[0, 0] = 1.0  # before the subject: no role, and no peak
        scores[at, layer] = 0.8
        return hand_made(scores=scores)

    (found,) = averaged(facts_of(peaked(1, 2), peaked(8, 0), peaked(1, 2), peaked(4, 1))).maps
    assert found.peaks.tolist() == [[0, 2], [5, 0], [0, 2], [2, 1]]
    assert found.peak_facts == ("fact 0", "fact 1", "fact 2", "fact 3")
    assert found.peak_counts.sum() == 4 and found.peak_share[0, 2] == 0.5 and found.peak_share[5, 0] == 0.25


def test_metrics_that_fall_peak_where_they_fall_most() -> None:
    scores = np.full((9, LAYERS), 2.5)
    scores[4, 1] = 0.5
    trace = hand_made()
    trace = replace(trace, others={"kl": Values(0.0, 3.0, scores, None)})
    (found,) = averaged(facts_of(trace, trace), metric="kl").maps
    assert found.peaks.tolist() == [[2, 1], [2, 1]] and found.sign == -1
    assert found.mean[2, 1] == -2.5 and found.total_effect == -3.0  # signed, and not clipped


# What enters


def test_small_total_effects_are_counted_and_left_out_unless_wanted() -> None:
    facts = facts_of(hand_made(0), hand_made(1, high=0.12), hand_made(2), hand_made(3, high=0.05))
    found = averaged(facts).maps[0]
    assert (found.averaged, found.small) == (2, 2) and found.peak_facts == ("fact 0", "fact 2")
    np.testing.assert_array_equal(found.mean, averaged([facts[0], facts[2]]).maps[0].mean)
    wanted = averaged(facts, include_small=True)
    assert (wanted.maps[0].averaged, wanted.maps[0].small, wanted.small_included) == (4, 2, True)
    lower = averaged(facts, threshold=0.01).maps[0]
    assert (lower.averaged, lower.small) == (3, 1)


def test_the_threshold_is_of_each_corruption() -> None:
    strong, weak = hand_made(), hand_made(corruption="swap", high=0.11)
    facts: list[tuple[str | None, FactMaps]] = [
        ("a", FactMaps.of([strong, weak])),
        ("b", FactMaps.of([strong, strong])),
    ]
    with pytest.raises(TraceError, match="same maps"):
        averaged(facts)
    other = replace(strong, corruption="swap")
    facts[1] = ("b", FactMaps.of([strong, other]))
    assert [(one.averaged, one.small) for one in averaged(facts).maps] == [(2, 0), (1, 1)]


def test_corruptions_are_compared_on_the_facts_that_both_let_localise() -> None:
    """A fact that only one of them lets localise is in that one's mean, and not in the comparison."""
    strong = [hand_made(seed) for seed in range(4)]
    swapped = [hand_made(10 + seed, corruption="swap", high=0.12 if seed == 3 else 0.9) for seed in range(4)]
    facts: list[tuple[str | None, FactMaps]] = [
        (None, FactMaps.of([one, other])) for one, other in zip(strong, swapped, strict=True)
    ]
    found = averaged(facts)
    assert [one.averaged for one in found.maps] == [4, 3] and [one.samples for one in found.maps] == [10, 1]
    rows = {row["metric"]: row for row in found.agreement}
    assert {metric: row["facts"] for metric, row in rows.items()} == {"probability": 3, "kl": 3}
    assert rows["probability"] == averaged(facts[:3]).agreement[0]  # as if the fourth were not there
    own = spearmanr(*(one.mean.ravel() for one in found.maps)).statistic
    assert rows["probability"]["correlation"] != pytest.approx(own)
    wider = averaged(facts, include_small=True)
    assert wider.agreement[0]["facts"] == 4
    assert wider.agreement[0]["correlation"] == pytest.approx(
        spearmanr(*(one.mean.ravel() for one in wider.maps)).statistic
    )


def test_every_measured_metric_is_averaged_and_the_asked_one_first() -> None:
    facts = facts_of(*(hand_made(seed) for seed in range(3)))
    found, other = averaged(facts), averaged(facts, metric="kl")
    assert found.metrics == ("probability", "kl") and other.metrics == ("kl", "probability")
    assert found.of("kl").to_dict() == other.to_dict()
    assert found.of("kl").of("probability").to_dict() == found.to_dict()
    assert {row["metric"] for row in found.rows()} == {"probability", "kl"}
    with pytest.raises(TraceError, match="have no metric 'rank': they have probability, kl"):
        found.of("rank")


def test_the_mean_of_nothing_is_an_error_that_says_why() -> None:
    counts = Counts(records=9, malformed=2, unknown=4, skipped=1, known=2, failed=2)
    left = [Left(3, None, "failed", "the layer is missing")]
    with pytest.raises(
        TraceError, match=r"9 looked at: 2 failed, 4 not answered right.*2 malformed, 1 skipped; record 3: the layer"
    ):
        average([], counts, left=left)
    with pytest.raises(TraceError, match=r"under gaussian:3s is under 0.05 \(the largest is 0.02\), too small"):
        averaged(facts_of(hand_made(high=0.12)))
    with pytest.raises(TraceError, match="needs a foil"):
        averaged(facts_of(hand_made()), metric="logit_difference")


def test_what_cannot_be_averaged_is_refused() -> None:
    facts = facts_of(hand_made())
    for options, said in (
        ({"metric": "loss"}, "no metric 'loss': choose probability"),
        ({"threshold": float("nan")}, "must be a number"),
        ({"resamples": 10}, "at least 1000"),
    ):
        with pytest.raises(TraceError, match=said):
            averaged(facts, **options)


# The record


def test_the_record_comes_back_through_json() -> None:
    found = averaged(
        facts_of(*(hand_made(seed, subject=(1, 2)) for seed in range(3))), left=[Left(2, "x", "unknown", "?")]
    )
    text = json.dumps(found.to_dict()).replace("NaN", "null")
    again = Average.from_dict(json.loads(text))
    assert again.counts == found.counts and again.left == found.left and again.threshold == found.threshold
    for name, value in vars(found.maps[0]).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(again.maps[0], name), value)
        else:
            assert getattr(again.maps[0], name) == value
    for damaged in ({}, {**found.to_dict(), "maps": [{}]}, {**found.to_dict(), "more": 1}):
        with pytest.raises(TraceError, match="these are no averages"):
            Average.from_dict(damaged)


def test_rows_are_tidy_and_leave_out_roles_that_no_fact_has() -> None:
    found = averaged(facts_of(*(hand_made(seed, subject=(1, 2)) for seed in range(3))))
    rows = found.rows()
    rows = [row for row in rows if row["metric"] == "probability"]
    assert len(rows) == 4 * LAYERS and {row["role"] for row in rows} == set(ROLES[2:])
    row = next(row for row in rows if row["role"] == ROLES[5] and row["layer"] == 1)
    assert row["mean"] == found.maps[0].mean[5, 1] and row["facts"] == 3
    assert sum(row["peak_share"] for row in rows) == pytest.approx(1)


def test_real_traces_average_to_their_own_mean() -> None:
    model = tiny.shared("neox")
    facts = known_facts(model, 4)
    tracer = Tracer(model, Settings(kinds=("hidden", "mlp"), windows=(2,), corruptions=(1.0,), samples=3))
    traces = [tracer.maps(fact) for fact in facts]
    kept: list[tuple[str | None, FactMaps]] = [
        (fact.id, FactMaps.of(maps)) for fact, maps in zip(facts, traces, strict=True)
    ]
    found = averaged(kept, include_small=True)
    assert [one.kind for one in found.maps] == ["hidden", "mlp"]
    last: AverageMap = found.maps[0]
    np.testing.assert_allclose(last.mean[5, -1], np.mean([maps[0].total_effect for maps in traces]), rtol=1e-6)
    assert last.total_effect == pytest.approx(last.mean[5, -1])
