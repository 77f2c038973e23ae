"""The rank-one update: what it must do, that nothing does it with less, and where it breaks."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from rome_engine.edit.guard import Guard, require_finite
from rome_engine.edit.solve import Update, rank_one
from rome_engine.errors import EditError

D_MODEL, D_MLP = 7, 12


class Case:
    """A random layer, its keys' second moment, a bare prompt's key, a mean key and a wanted value."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.weight, self.bias = random(D_MODEL, D_MLP), random(D_MODEL)
        keys = random(50, D_MLP) @ random(D_MLP, D_MLP)
        self.moment = keys.T @ keys / len(keys)
        self.bare = random(D_MLP)
        self.mean = self.bare + 0.3 * random(D_MLP)
        self.wanted = random(D_MODEL)

    def update(self, key: Tensor, mean: Tensor | None = None) -> Update:
        mean = self.mean if mean is None else mean
        current = self.weight @ key + self.bias
        return rank_one(self.wanted, current, key, mean, torch.linalg.solve(self.moment, mean))

    def value(self, update: Update, key: Tensor) -> Tensor:
        return (self.weight + update.dense()) @ key + self.bias


@pytest.fixture(params=range(5))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_rome_gives_the_wanted_value_at_the_bare_key(case: Case) -> None:
    update = case.update(case.bare)
    assert torch.allclose(case.value(update, case.bare), case.wanted, rtol=0, atol=1e-9)
    assert not torch.allclose(case.value(update, case.mean), case.wanted, rtol=0, atol=1e-3)


def test_r_rome_gives_the_wanted_value_at_the_mean_key(case: Case) -> None:
    update = case.update(case.mean)
    assert torch.allclose(case.value(update, case.mean), case.wanted, rtol=0, atol=1e-9)
    assert update.relative_denominator == pytest.approx(1.0, abs=1e-12)


def test_the_update_has_rank_one(case: Case) -> None:
    singular = torch.linalg.svdvals(case.update(case.bare).dense())
    assert singular[0] > 1e-6
    assert singular[1] < 1e-12 * singular[0]


def test_rome_and_r_rome_agree_where_the_mean_key_is_the_bare_one(case: Case) -> None:
    rome, r_rome = case.update(case.bare, mean=case.bare), case.update(case.bare, mean=case.bare)
    other = case.update(case.mean)
    assert torch.equal(rome.dense(), r_rome.dense())
    assert not torch.allclose(rome.dense(), other.dense())


def test_r_rome_is_first_order_optimal(case: Case) -> None:
    """At the minimum of tr(Δ C Δᵀ) under Δ k = r the gradient 2 Δ C is a multiple of kᵀ in every row."""
    gradient = case.update(case.mean).dense() @ case.moment
    direction = case.mean / case.mean.norm()
    beside = gradient - (gradient @ direction)[:, None] * direction
    assert beside.norm() < 1e-9 * gradient.norm()


def test_no_other_update_with_the_same_effect_costs_less(case: Case) -> None:
    """Against the minimum found with Lagrange multipliers, and against random updates that keep the constraint."""
    update = case.update(case.mean).dense()

    def cost(delta: Tensor) -> float:
        return float(torch.trace(delta @ case.moment @ delta.T))

    residual = case.wanted - case.weight @ case.mean - case.bias
    system = torch.zeros(D_MLP + 1, D_MLP + 1, dtype=torch.float64)
    system[:-1, :-1], system[-1, :-1], system[:-1, -1] = 2 * case.moment, case.mean, case.mean
    right = torch.zeros(D_MLP + 1, D_MODEL, dtype=torch.float64)
    right[-1] = residual
    assert torch.allclose(update, torch.linalg.solve(system, right)[:-1].T, rtol=0, atol=1e-9)

    for seed in range(20):
        change = torch.randn(D_MODEL, D_MLP, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        change -= (change @ case.mean)[:, None] * case.mean / case.mean.square().sum()
        assert cost(update + 0.1 * change) > cost(update)
    # Without the constraint, less is possible: the comparison can fail.
    assert cost(0.9 * update) < cost(update)


def test_a_bare_key_across_the_mean_one_blows_rome_up_and_the_guard_says_so(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 1: k̄ in C⁻¹k̄ and k₀ in the denominator."""
    direction = torch.linalg.solve(case.moment, case.mean)
    across = case.bare - (direction @ case.bare - 1e-4) / (direction @ case.mean) * case.mean
    rome, r_rome = case.update(across), case.update(case.mean)
    assert rome.dense().norm() > 100 * r_rome.dense().norm()

    with pytest.raises(EditError, match="small denominator"):
        Guard(policy="refuse").denominator(3, rome.relative_denominator)
    with caplog.at_level(logging.WARNING):
        Guard().denominator(3, rome.relative_denominator)
        assert "layer 3" in caplog.text and "r-rome" in caplog.text
        caplog.clear()
        Guard().denominator(3, r_rome.relative_denominator)
        assert not caplog.text


def test_a_denominator_of_zero_is_refused(case: Case) -> None:
    with pytest.raises(EditError, match="denominator"):
        rank_one(case.wanted, case.wanted, torch.zeros(D_MLP), case.mean, case.mean)
    with pytest.raises(EditError, match="denominator"):
        rank_one(case.wanted, case.wanted, case.mean, case.mean, -case.mean)


def test_the_guard_of_norms_and_of_finite_numbers(caplog: pytest.LogCaptureFixture) -> None:
    Guard(min_reach=0.5, policy="refuse").reach(1, 0.5)
    with pytest.raises(EditError, match="8% of the change of layer 1 reaches the prompt "):
        Guard(min_reach=0.5, policy="refuse").reach(1, 0.08)
    Guard(max_norm=0.5, policy="refuse").norms(1, delta=1.0, weight=2.0)
    with pytest.raises(EditError, match="is large"):
        Guard(max_norm=0.5, policy="refuse").norms(1, delta=1.1, weight=2.0)
    with caplog.at_level(logging.WARNING):
        Guard(max_norm=0.5).norms(1, delta=1.1, weight=2.0)
    assert "is large" in caplog.text

    require_finite("it", torch.ones(2))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(EditError, match="finite"):
            require_finite("it", torch.ones(2), torch.tensor([1.0, bad]))
