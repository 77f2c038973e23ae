"""Paired tests against brute force, sizes of differences, and Holm's correction by hand."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from rome_engine.bench.paired import EXACT, SHUFFLES, effect, holm, mcnemar, newcombe, paired_test, permutation
from rome_engine.bench.statistics import Array, harmonic


def column(*values: float) -> Array:
    return np.array(values, dtype=np.float64)[:, None]


def enumerated(first: Array, second: Array) -> float:
    """The share of all ways to exchange the runs within records whose difference is as large as the observed one."""
    both = np.stack([first[:, 0], second[:, 0]])
    observed = abs(float(both[0].mean() - both[1].mean()))
    reached = 0
    for signs in product((1, -1), repeat=len(first)):
        reached += abs(float(np.mean(np.array(signs) * (both[0] - both[1])))) >= observed - 1e-12
    return reached / 2 ** len(first)


@pytest.mark.parametrize(("ahead", "behind"), [(0, 1), (5, 0), (7, 2), (3, 3), (20, 9), (1, 40)])
def test_mcnemar_is_the_binomial_of_discordant_records(ahead: int, behind: int) -> None:
    same = [1.0] * 6 + [0.0] * 4
    first = column(*[1.0] * ahead, *[0.0] * behind, *same)
    second = column(*[0.0] * ahead, *[1.0] * behind, *same)
    count, fewer = ahead + behind, min(ahead, behind)
    brute = min(1.0, 2 * sum(comb(count, k) for k in range(fewer + 1)) / 2**count)
    assert mcnemar(first, second).p == pytest.approx(brute)
    assert mcnemar(first, second) == mcnemar(second, first)
    assert paired_test(first, second).name == "McNemar, exact"


def test_permutation_is_the_full_enumeration() -> None:
    random = np.random.default_rng(0)
    for size in (1, 4, 9):
        first, second = random.normal(0.5, 1.0, (size, 1)), random.normal(0.0, 1.0, (size, 1))
        found = permutation(first, second)
        assert found.p == pytest.approx(enumerated(first, second)) and found.name == "sign flips, exact"


def test_records_that_do_not_differ_change_nothing() -> None:
    first, second = column(0.9, 0.7, 0.8, 0.2), column(0.1, 0.3, 0.2, 0.5)
    more = np.full((EXACT + 5, 1), 0.4)
    alone, among = permutation(first, second), permutation(np.vstack([first, more]), np.vstack([second, more]))
    assert among.p == alone.p == pytest.approx(enumerated(first, second))


def test_drawn_exchanges_come_close_to_all_exchanges() -> None:
    random = np.random.default_rng(1)
    first, second = random.normal(0.35, 1.0, (EXACT + 1, 1)), random.normal(0.0, 1.0, (EXACT + 1, 1))
    found, brute = permutation(first, second), enumerated(first, second)
    assert "drawn" in found.name and found == permutation(first, second) != permutation(first, second, seed=1)
    assert found.p == pytest.approx(brute, abs=4 * (brute * (1 - brute) / SHUFFLES) ** 0.5)


def test_mcnemar_and_sign_flips_agree_on_figures_of_0_and_1() -> None:
    first, second = column(*[1] * 9, *[0] * 2), column(*[0] * 9, *[1] * 2)
    assert permutation(first, second).p == pytest.approx(mcnemar(first, second).p)


def test_s_is_exchanged_as_a_whole() -> None:
    random = np.random.default_rng(2)
    first, second = random.random((8, 3)), random.random((8, 3))
    reached = 0
    observed = abs(harmonic(first.mean(0)) - harmonic(second.mean(0)))
    for chosen in product((False, True), repeat=8):
        swapped = np.array(chosen)[:, None]
        one, other = np.where(swapped, second, first), np.where(swapped, first, second)
        reached += bool(abs(harmonic(one.mean(0)) - harmonic(other.mean(0))) >= observed - 1e-12)
    assert permutation(first, second, harmonic).p == pytest.approx(reached / 2**8)


def test_s_of_records_that_lack_a_part_is_exchanged_as_a_whole() -> None:
    random = np.random.default_rng(3)
    first, second = random.random((7, 3)), random.random((7, 3))
    for side in (first, second):
        side[[0, 3, 4], 1] = np.nan
    reached = 0
    observed = abs(harmonic(np.nanmean(first, 0)) - harmonic(np.nanmean(second, 0)))
    for chosen in product((False, True), repeat=7):
        swapped = np.array(chosen)[:, None]
        one, other = np.where(swapped, second, first), np.where(swapped, first, second)
        reached += bool(abs(harmonic(np.nanmean(one, 0)) - harmonic(np.nanmean(other, 0))) >= observed - 1e-12)
    assert permutation(first, second, harmonic).p == pytest.approx(reached / 2**7)


def test_identical_runs_do_not_differ() -> None:
    whole, broken = column(1, 0, 1, 1), np.random.default_rng(3).random((30, 1))
    for values in (whole, broken):
        assert paired_test(values, values).p == 1.0
        found = effect(values, values)
        assert found is not None and found.value is None and found.reason == "no record differs"


def test_false_findings_are_as_rare_as_they_should_be() -> None:
    random = np.random.default_rng(4)
    values = [random.normal(0.0, 1.0, (2, 12, 1)) for _ in range(200)]
    small = sum(permutation(first, second).p <= 0.05 for first, second in values)
    assert 1 <= small <= 20


def test_sizes_of_differences() -> None:
    found = effect(column(1, 1, 1, 0, 1), column(0, 0, 0, 1, 1))
    assert found is not None and (found.name, found.first_only, found.second_only) == ("g", 3, 1)
    assert found.value == 0.25
    away = np.array([0.2, 0.4, -0.1, 0.3])
    found = effect(column(*(away + 0.5)), column(0.5, 0.5, 0.5, 0.5))
    assert found is not None and found.name == "d_z" and found.value == pytest.approx(away.mean() / away.std(ddof=1))
    constant = effect(column(0.5, 0.7, 0.9), column(0.4, 0.6, 0.8))
    assert constant is not None and constant.value is None and constant.reason == "all records differ by the same"
    lone = effect(column(0.5), column(0.4))
    assert lone is not None and lone.value is None
    assert effect(np.ones((4, 3)), np.zeros((4, 3))) is None


def test_holm_by_hand() -> None:
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, .06, .04, and no one less than the one before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


def table(both: int, ahead: int, behind: int, neither: int) -> tuple[Array, Array]:
    counts = (both, ahead, behind, neither)
    return tuple(np.repeat(side, counts).astype(np.float64)[:, None] for side in ((1, 1, 0, 0), (1, 0, 1, 0)))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((59, 6, 16, 80), -0.1186, -0.0046),  # Cavo et al. 2012, in Fagerland, Lydersen & Laake 2017, chapter 8
        ((1, 1, 7, 12), -0.507, -0.026),  # Bentur et al. 2009, in Fagerland, Lydersen & Laake 2014
        ((14, 5, 0, 22), 0.011, 0.226),  # Altman et al. 2000, Statistics with Confidence, table 6.2
    ],
)
def test_intervals_of_paired_shares_are_the_published_ones(
    counts: tuple[int, int, int, int], low: float, high: float
) -> None:
    first, second = table(*counts)
    assert newcombe(first, second) == pytest.approx((low, high), abs=6e-4)
    assert newcombe(second, first) == pytest.approx((-high, -low), abs=6e-4)


def test_intervals_of_paired_shares_hold_the_truth_as_often_as_they_say() -> None:
    """Every table of 20 records, each with its chance."""
    n = 20
    for chances in ((0.6, 0.2, 0.1, 0.1), (0.3, 0.2, 0.2, 0.3), (0.85, 0.12, 0.01, 0.02)):
        held = 0.0
        for both, ahead, behind in product(range(n + 1), repeat=3):
            neither = n - both - ahead - behind
            if neither < 0:
                continue
            ways = comb(n, both) * comb(n - both, ahead) * comb(n - both - ahead, behind)
            chance = ways * float(np.prod(np.power(chances, (both, ahead, behind, neither))))
            if chance > 1e-6:
                low, high = newcombe(*table(both, ahead, behind, neither))
                held += chance * (low <= chances[1] - chances[2] <= high)
        assert 0.93 <= held <= 0.995, (chances, held)


@pytest.mark.parametrize(("records", "differ"), [(40, 3), (500, 3), (500, 4)])
def test_few_records_that_differ_are_no_finding(records: int, differ: int) -> None:
    first, second = table(records - differ, differ, 0, 0)
    low, high = newcombe(first, second)
    assert low < 0 < differ / records < high and mcnemar(first, second).p > 0.05
