"""The one ridge solver: every identity of the closed-form methods on random matrices, and where it breaks."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rome_engine.edit.guard import Guard, require_finite
from rome_engine.edit.solve import Ridge, Update
from rome_engine.errors import EditError

D_MODEL, D_MLP, FACTS = 7, 12, 5
L2, THRESHOLD = 0.7, 2.0


class Case:
    """A random layer, its keys' second moment, and the keys and residuals of some facts."""

    def __init__(self, seed: int, facts: int = FACTS) -> None:
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        keys = random(50, D_MLP) @ random(D_MLP, D_MLP)
        self.moment = keys.T @ keys / len(keys)
        self.weight = random(D_MODEL, D_MLP)
        self.keys, self.wanted = random(D_MLP, facts), random(D_MODEL, facts)
        self.bare = self.keys + 0.3 * random(D_MLP, facts)
        self.residuals = self.wanted - self.weight @ self.keys

    def one(self) -> tuple[Tensor, Tensor, Tensor]:
        """The mean key, the bare key and the wanted value of the first fact."""
        return self.keys[:, :1], self.bare[:, :1], self.wanted[:, :1]


@pytest.fixture(params=range(5))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def same(one: Tensor, other: Tensor, tolerance: float = 1e-10) -> bool:
    return float((one - other).norm()) <= tolerance * max(float(one.norm()), float(other.norm()))


def rome(case: Case, key: Tensor, pinned: Tensor | None, wanted: Tensor) -> Update:
    at = key if pinned is None else pinned
    return Ridge.of(case.moment, 0.0).update(wanted - case.weight @ at, key, pinned)


def memit(case: Case, weight: float, history: Tensor | float = 0.0) -> Update:
    return Ridge.of(weight * case.moment + history).update(case.residuals, case.keys)


def null_space(moment: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(moment)
    assert 0 < int((values < THRESHOLD).sum()) < len(values)
    return vectors[:, values < THRESHOLD]


def alphaedit(basis: Tensor, residuals: Tensor, keys: Tensor, history: Tensor | float = 0.0) -> Update:
    matrix = L2 * torch.eye(basis.shape[1], dtype=torch.float64)
    if isinstance(history, Tensor):
        matrix = matrix + basis.T @ history @ basis
    return Ridge.of(matrix, basis=basis).update(residuals, keys)


# ROME and R-ROME


def test_rome_gives_the_wanted_value_at_the_bare_key(case: Case) -> None:
    mean, bare, wanted = case.one()
    update = rome(case, mean, bare, wanted)
    edited = case.weight + update.dense()
    assert same(edited @ bare, wanted)
    assert not same(edited @ mean, wanted, 1e-3)
    # (v* − W k₀) uᵀ / (uᵀ k₀), u = C⁻¹ k̄
    direction = torch.linalg.solve(case.moment, mean)
    assert same(update.dense(), (wanted - case.weight @ bare) @ direction.T / (direction.T @ bare))
    assert update.denominator == pytest.approx(float(direction.T @ bare))
    assert update.relative_denominator == pytest.approx(float(direction.T @ bare) / float(direction.T @ mean))


def test_r_rome_gives_the_wanted_value_at_the_mean_key(case: Case) -> None:
    mean, _, wanted = case.one()
    update = rome(case, mean, None, wanted)
    assert same((case.weight + update.dense()) @ mean, wanted)
    assert update.relative_denominator == pytest.approx(1.0, abs=1e-12)


def test_rome_and_r_rome_agree_where_the_mean_key_is_the_bare_one(case: Case) -> None:
    mean, bare, wanted = case.one()
    assert same(rome(case, bare, bare, wanted).dense(), rome(case, bare, None, wanted).dense())
    assert not same(rome(case, bare, None, wanted).dense(), rome(case, mean, None, wanted).dense(), 1e-3)


def test_no_other_update_with_the_same_effect_costs_less(case: Case) -> None:
    """Without a ridge: random updates that keep ΔK = R have a larger tr(Δ C Δᵀ)."""
    update = Ridge.of(case.moment, 0.0).update(case.residuals, case.keys).dense()
    assert same(update @ case.keys, case.residuals)

    def cost(delta: Tensor) -> float:
        return float(torch.trace(delta @ case.moment @ delta.T))

    beside = torch.eye(D_MLP, dtype=torch.float64) - case.keys @ torch.linalg.pinv(case.keys)
    for seed in range(20):
        change = torch.randn(D_MODEL, D_MLP, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert cost(update + 0.1 * change @ beside) > cost(update)
    # Without the constraint, less is possible: the comparison can fail.
    assert cost(0.9 * update) < cost(update)


def test_a_bare_key_across_the_mean_one_blows_rome_up_and_the_guard_says_so(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    """Trap 1: k̄ in C⁻¹k̄ and k₀ in the denominator."""
    mean, bare, wanted = case.one()
    direction = torch.linalg.solve(case.moment, mean)
    across = bare - (direction.T @ bare - 1e-4) / (direction.T @ mean) * mean
    mixed, clean = rome(case, mean, across, wanted), rome(case, mean, None, wanted)
    assert mixed.norm > 100 * clean.norm
    assert mixed.relative_denominator is not None and clean.relative_denominator is not None
    with pytest.raises(EditError, match="small denominator"):
        Guard(policy="refuse").denominator(3, mixed.relative_denominator)
    with caplog.at_level(logging.WARNING):
        Guard().denominator(3, mixed.relative_denominator)
        assert "layer 3" in caplog.text and "r-rome" in caplog.text
        caplog.clear()
        Guard().denominator(3, clean.relative_denominator)
        assert not caplog.text


# The ridge: MEMIT and EMMET


@pytest.mark.parametrize("facts", [1, FACTS, 40])
def test_memit_solves_its_normal_equations(facts: int) -> None:
    case = Case(0, facts)
    update = memit(case, 3.0)
    delta = update.dense()
    crossed = case.residuals @ case.keys.T
    assert same(delta @ (3.0 * case.moment + case.keys @ case.keys.T), crossed)
    assert update.residual < 1e-12
    assert same(delta, crossed @ torch.linalg.inv(3.0 * case.moment + case.keys @ case.keys.T))
    # Without the second moment, trap 2, it is another update.
    assert not same(delta @ (3.0 * torch.eye(D_MLP) + case.keys @ case.keys.T), crossed, 1e-3)


@pytest.mark.parametrize("facts", [1, FACTS, 40])
def test_the_weight_may_stand_with_the_ridge_or_in_the_matrix(facts: int) -> None:
    """λC with ε = 1 is C with ε = λ: MEMIT needs no other factor than ROME's."""
    case = Case(1, facts)
    inside = Ridge.of(case.moment, 250.0).update(case.residuals, case.keys)
    assert same(inside.dense(), memit(case, 250.0).dense())


@pytest.mark.parametrize("scale", [0.5, 1000.0])
def test_emmet_on_a_scaled_moment_is_memit(case: Case, scale: float) -> None:
    """R (Kᵀ (cC)⁻¹ K + εI)⁻¹ Kᵀ (cC)⁻¹ is MEMIT with λ = c·ε."""
    ridge = 0.1
    emmet = Ridge.of(scale * case.moment, ridge).update(case.residuals, case.keys).dense()
    weighed = torch.linalg.solve(scale * case.moment, case.keys)
    system = case.keys.T @ weighed + ridge * torch.eye(FACTS, dtype=torch.float64)
    assert same(emmet, case.residuals @ torch.linalg.inv(system) @ weighed.T)
    assert same(emmet, memit(case, scale * ridge).dense())
    assert not same(emmet, memit(case, 2 * scale * ridge).dense(), 1e-3)


def test_the_update_is_the_minimum(case: Case) -> None:
    """First-order optimality of ‖R − ΔK‖² + ε tr(Δ A Δᵀ)."""
    delta = Ridge.of(case.moment, 0.3).update(case.residuals, case.keys).dense().requires_grad_()
    loss = (case.residuals - delta @ case.keys).square().sum() + 0.3 * torch.trace(delta @ case.moment @ delta.T)
    (gradient,) = torch.autograd.grad(loss, delta)
    assert gradient.norm() < 1e-9 * case.residuals.norm() * case.keys.norm()


@pytest.mark.parametrize("facts", [1, 3, D_MODEL, 40])
def test_rank_is_at_most_the_facts_and_the_rows_of_the_weight(facts: int) -> None:
    case = Case(2, facts)
    update = memit(case, 3.0)
    assert update.left.shape[1] == update.right.shape[1] == min(facts, D_MODEL)
    singular = torch.linalg.svdvals(update.dense())
    assert int((singular > 1e-10 * singular[0]).sum()) == min(facts, D_MODEL)


@pytest.mark.parametrize("facts", [2, D_MODEL, D_MLP, 40])
def test_over_facts_and_over_directions_is_the_same(case: Case, facts: int) -> None:
    many = Case(3, facts)
    ridge = Ridge.of(many.moment, 3.0)
    by_facts = ridge._over_facts(many.residuals, many.keys, None)
    by_directions = ridge._over_directions(many.residuals, many.keys)
    assert same(by_facts.dense(), by_directions.dense())
    assert by_facts.residual < 1e-12 and by_directions.residual < 1e-12


def test_the_sums_over_facts_do_not_depend_on_their_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(4, 40)
    whole = memit(case, 3.0).dense()
    monkeypatch.setattr("rome_engine.edit.solve._PIECE", 7)
    assert same(memit(case, 3.0).dense(), whole)


# Batches


@pytest.mark.parametrize("cuts", [(0, 20), (0, 1, 20), (0, 7, 11, 20), tuple(range(21))])
def test_memit_with_history_in_any_batches_is_one_batch(cuts: tuple[int, ...]) -> None:
    case = Case(5, 20)

    def batches(keep: bool) -> Tensor:
        weight, history = case.weight, torch.zeros(D_MLP, D_MLP, dtype=torch.float64)
        for begin, end in pairwise(cuts):
            keys, wanted = case.keys[:, begin:end], case.wanted[:, begin:end]
            ridge = Ridge.of(3.0 * case.moment + history)
            weight = weight + ridge.update(wanted - weight @ keys, keys).dense()
            history = history + keep * keys @ keys.T
        return weight

    whole = case.weight + memit(case, 3.0).dense()
    assert same(batches(keep=True), whole)
    if len(cuts) > 2:  # plain repeated MEMIT does not
        assert not same(batches(keep=False), whole, 1e-3)


@pytest.mark.parametrize("cuts", [(0, 20), (0, 1, 20), (0, 7, 11, 20), tuple(range(21))])
def test_alphaedit_in_any_batches_is_one_batch(cuts: tuple[int, ...]) -> None:
    case = Case(6, 20)
    basis = null_space(case.moment)

    def batches(keep: bool) -> Tensor:
        weight, history = case.weight, torch.zeros(D_MLP, D_MLP, dtype=torch.float64)
        for begin, end in pairwise(cuts):
            keys, wanted = case.keys[:, begin:end], case.wanted[:, begin:end]
            weight = weight + alphaedit(basis, wanted - weight @ keys, keys, history).dense()
            history = history + keep * keys @ keys.T
        return weight

    whole = case.weight + alphaedit(basis, case.residuals, case.keys).dense()
    assert same(batches(keep=True), whole)
    if len(cuts) > 2:
        assert not same(batches(keep=False), whole, 1e-3)


# AlphaEdit


@pytest.mark.parametrize("facts", [1, FACTS, 40])
@pytest.mark.parametrize("seed", range(3))
def test_alphaedit_solves_its_equation_in_the_null_space(seed: int, facts: int) -> None:
    """[P (K Kᵀ + H) + L2·I] Δᵀ = P K Rᵀ, and Δ leaves what ordinary keys span alone."""
    case, earlier = Case(seed, facts), Case(seed + 10).keys
    basis, history = null_space(case.moment), earlier @ earlier.T
    update = alphaedit(basis, case.residuals, case.keys, history)
    delta = update.dense()
    projector = basis @ basis.T
    equation = projector @ (case.keys @ case.keys.T + history) + L2 * torch.eye(D_MLP, dtype=torch.float64)
    assert same(equation @ delta.T, projector @ case.keys @ case.residuals.T)
    assert same(delta, torch.linalg.solve(equation, projector @ case.keys @ case.residuals.T).T)
    others = torch.linalg.eigh(case.moment).eigenvectors[:, basis.shape[1] :]
    assert (delta @ others).norm() < 1e-12 * delta.norm()
    assert memit(case, 3.0).dense().mm(others).norm() > 1e-5 * memit(case, 3.0).norm
    assert update.left.shape[1] <= min(facts, D_MODEL, basis.shape[1])


# What the factors keep, and what is refused


def test_the_factors_survive_float32_however_alike_the_facts_are() -> None:
    case = Case(7)
    keys = case.keys[:, :1] + 1e-4 * case.keys
    for ridge in (0.0, 1e-9):
        update = Ridge.of(case.moment, ridge).update(case.residuals, keys)
        rounded = update.left.float().double() @ update.right.float().double().T
        assert same(rounded, update.dense(), 1e-6)
        assert update.norm == pytest.approx(float(update.dense().norm()))
    # The plain factors R M⁻¹ and C⁻¹ K cancel, and rounding them would be felt.
    weighed = torch.linalg.solve(case.moment, keys)
    left = case.residuals @ torch.linalg.inv(keys.T @ weighed)
    assert not same(left.float().double() @ weighed.float().double().T, left @ weighed.T, 1e-5)


def test_what_is_singular_is_refused_and_nothing_is_added_in_silence(case: Case) -> None:
    with pytest.raises(EditError, match=r"second moment with its history is singular.*more tokens"):
        Ridge.of(case.keys @ case.keys.T)
    blurred = case.moment.clone()
    blurred[0, :] = blurred[:, 0] = 0
    blurred[0, 0] = 1e-30
    Ridge.of(blurred)
    near = case.keys @ case.keys.T + 1e-9 * torch.eye(D_MLP, dtype=torch.float64)
    Ridge.of(near)
    twice = case.keys[:, [0, 1, 0]]
    with pytest.raises(EditError, match="may have the same key"):
        Ridge.of(case.moment, 0.0).update(case.residuals[:, :3], twice)
    Ridge.of(case.moment, 0.1).update(case.residuals[:, :3], twice)


def test_a_denominator_of_zero_and_numbers_that_are_none_are_refused(case: Case) -> None:
    mean, _, wanted = case.one()
    with pytest.raises(EditError, match="denominator is 0"):
        rome(case, mean, torch.zeros_like(mean), wanted)
    with pytest.raises(EditError, match="does not exist"):
        rome(case, torch.zeros_like(mean), None, wanted)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(EditError, match="not finite"):
            Ridge.of(case.moment).update(bad * case.residuals, case.keys)


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
