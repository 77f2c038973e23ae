"""What the editors take from a second moment: its Cholesky factor and its small eigenvectors."""

from __future__ import annotations

import pytest
import torch

from rome_engine.errors import StatisticsError
from rome_engine.stats import SecondMoment

D = 12


def moment_of(keys: int, seed: int = 0) -> SecondMoment:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(D, D, generator=generator, dtype=torch.float64)
    found = SecondMoment(D)
    found.update(torch.randn(keys, D, generator=generator, dtype=torch.float64) @ mix)
    return found


def test_the_factor_is_that_of_the_matrix_and_jitter_is_only_what_was_asked_for() -> None:
    moment = moment_of(100)
    for jitter in (0.0, 0.1):
        factor = moment.factor(jitter=jitter)
        assert torch.equal(factor, factor.tril())
        assert torch.allclose(factor @ factor.T, moment.matrix(jitter=jitter), rtol=1e-12)
    added = moment.matrix(jitter=0.1) - moment.matrix()
    assert torch.allclose(added, 0.1 * moment.matrix().diagonal().mean() * torch.eye(D, dtype=torch.float64))
    few = moment_of(D - 1)
    with pytest.raises(StatisticsError, match="singular"):
        few.factor()
    few.factor(jitter=1e-6)


def test_the_null_space_is_spanned_by_the_small_eigenvectors_until_the_next_key() -> None:
    moment = moment_of(100)
    values = torch.linalg.eigvalsh(moment.matrix())
    basis = moment.null_space(float(values[4]) * 1.0001)
    assert basis.shape == (D, 5)
    assert torch.allclose(basis.T @ basis, torch.eye(5, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(moment.matrix() @ basis, basis * values[:5], atol=1e-10)
    assert moment.null_space(float(values[0]) / 2).shape == (D, 0)
    moment.merge(moment_of(1000, seed=1))
    assert not torch.allclose(moment.matrix() @ basis, basis * values[:5], atol=1e-3)
    again = moment.null_space(float("inf"))
    assert torch.allclose(again @ again.T, torch.eye(D, dtype=torch.float64), atol=1e-12)
    changed = torch.linalg.eigvalsh(moment.matrix())
    assert torch.allclose(moment.matrix() @ again, again * changed, atol=1e-9 * float(changed.max()))
