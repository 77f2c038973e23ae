"""The one ridge problem behind every closed-form editor, and its solver: algebra in float64, which knows no models.

Letters as in the papers, a column a fact: K (d_mlp, n) keys, R (d_model, n) residuals, C = E[k kᵀ] the keys' second
moment, H = Σ K Kᵀ over earlier edits, Δ (d_model, d_mlp) the update of the weight.

Δ minimises ‖R − ΔK‖² + ε·tr(Δ A Δᵀ) over updates whose rows lie in the span of U:

    Δ = R (Kᵀ A⁻¹ K + εI)⁻¹ Kᵀ A⁻¹ = R Kᵀ (εA + K Kᵀ)⁻¹     (K, A in U's coordinates)

    ROME       A = C, ε = 0, the first K̄ᵀ A⁻¹ K taken at other keys: Kᵀ A⁻¹ K₀
    R-ROME     A = C, ε = 0
    EMMET      A = c·C, ε = 0.1
    MEMIT      A = C, ε = λ; with history A = λC + H, ε = 1
    AlphaEdit  A = L2·I + H, ε = 1, U the eigenvectors of C with small eigenvalues

Jitter: none. Nothing is added to a matrix to make it factorise; one whose pivots fall below the precision it is known
to is refused, because what it would give is noise. Whoever wants a jitter says so in the method's settings.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rome_engine.errors import EditError

_EPS = torch.finfo(torch.float64).eps
# Facts that are converted to float64 at once, where their number must not decide the memory.
_PIECE = 1024


@dataclass(frozen=True, eq=False)
class Update:
    """An update Δ = left · rightᵀ, of rank at most the number of facts.

    One factor has orthonormal columns: rounded to float32, Δ is off by no more than 1e-7 of ‖Δ‖ however alike the
    facts are. residual: of the equations solved, relative. condition: of the system solved, from its pivots.
    denominator: of a rank-one update without ridge, relative_denominator: as a share of kᵀA⁻¹k, which is what R-ROME
    has: near 0 the update blows up. Both None for others.
    """

    left: Float64[Tensor, "d_model rank"]
    right: Float64[Tensor, "d_mlp rank"]
    residual: float
    condition: float
    denominator: float | None = None
    relative_denominator: float | None = None

    def dense(self) -> Float64[Tensor, "d_model d_mlp"]:
        """Δ itself."""
        return self.left @ self.right.T

    @property
    def norm(self) -> float:
        """‖Δ‖ (Frobenius)."""
        return float(((self.left.T @ self.left) * (self.right.T @ self.right)).sum().clamp_min(0).sqrt())


@dataclass(frozen=True, eq=False)
class Ridge:
    """What an update is held back by: ε·tr(Δ A Δᵀ).

    factor: L, lower triangular, of A = L Lᵀ. weight: ε; 0 is the limit in which ΔK = R holds exactly. basis: U,
    orthonormal columns in whose span Δ's rows are kept, A then being in U's coordinates; None is the whole space.
    """

    factor: Float64[Tensor, "m m"]
    weight: float = 1.0
    basis: Float64[Tensor, "d_mlp m"] | None = None

    @classmethod
    def of(
        cls,
        matrix: Float64[Tensor, "m m"],
        weight: float = 1.0,
        *,
        basis: Float64[Tensor, "d_mlp m"] | None = None,
    ) -> Ridge:
        """The ridge of A itself. Raises EditError where A is not positive definite to float64's precision."""
        remedy = "collect second moments from more tokens, or give a jitter"
        return cls(_cholesky(matrix, "the second moment with its history", remedy), weight, basis)

    def update(
        self,
        residuals: Float[Tensor, "d_model facts"],
        keys: Float[Tensor, "d_mlp facts"],
        pinned: Float[Tensor, "d_mlp facts"] | None = None,
    ) -> Update:
        """Δ for R and K; without a ridge ΔK = R exactly. pinned: K₀, the keys at which that shall hold in K's place.

        Where there are more facts than Δ has ranks the normal equations are accumulated over the facts, else the system
        of the facts themselves is solved: the same Δ, and a memory and a rank that stop growing with the facts.

        Raises EditError where the system is singular or anything is not finite.
        """
        if not all(bool(torch.isfinite(given).all()) for given in (residuals, keys)):
            raise EditError(
                "the update does not exist: a key or a value is not finite (float32 weights, or a lower learning rate, "
                "may help)"
            )
        many = keys.shape[1] > min(len(residuals), len(self.factor))
        if many and self.weight > 0 and pinned is None:
            return self._over_directions(residuals, keys)
        return self._over_facts(residuals, keys, pinned)

    def _over_facts(self, residuals: Tensor, keys: Tensor, pinned: Tensor | None) -> Update:
        """Δ = R (Kᵀ A⁻¹ K₀ + εI)⁻¹ Kᵀ A⁻¹, an n × n system."""
        wanted = residuals.double()
        white = self._whitened(keys)  # V = L⁻¹ K, so that Kᵀ A⁻¹ K = Vᵀ V
        other = white if pinned is None else self._whitened(pinned)
        system = white.T @ other
        system.diagonal().add_(self.weight)
        if pinned is None:
            remedy = "two of them may have the same key: leave one out, or take a method with a ridge"
            root = _cholesky(system, f"the system of {len(system)} facts", remedy)
            left = torch.cholesky_solve(wanted.T, root).T
            condition = _condition(root)
        else:
            left = _divided(wanted, system)
            condition = float(torch.linalg.cond(system))
        directions = torch.linalg.solve_triangular(self.factor.T, white, upper=True)  # A⁻¹ K
        at = self._inside(keys if pinned is None else pinned)
        missed = left @ (directions.T @ at) + self.weight * left - wanted
        alone = self.weight == 0 and system.numel() == 1
        return self._finished(
            left,
            directions,
            residual=_ratio(missed, wanted),
            condition=condition,
            denominator=float(system) if alone else None,
            relative_denominator=float(system / white.square().sum()) if alone else None,
        )

    def _over_directions(self, residuals: Tensor, keys: Tensor) -> Update:
        """Δ = R Vᵀ (εI + V Vᵀ)⁻¹ L⁻¹ with V = L⁻¹ K: an m × m system, its sums taken over the facts."""
        system = self.weight * torch.eye(len(self.factor)).to(self.factor)
        crossed = system.new_zeros(len(residuals), len(system))
        for begin in range(0, keys.shape[1], _PIECE):
            white = self._whitened(keys[:, begin : begin + _PIECE])
            system.addmm_(white, white.T)
            crossed.addmm_(residuals[:, begin : begin + _PIECE].to(white), white.T)
        root = _cholesky(system, "the normal equations", "give a larger ridge")
        found = torch.cholesky_solve(crossed.T, root)
        missed = found.T @ system - crossed
        rows = torch.linalg.solve_triangular(self.factor.T, found, upper=True)  # Δᵀ in U's coordinates
        return self._finished(
            torch.eye(len(residuals)).to(rows), rows, residual=_ratio(missed, crossed), condition=_condition(root)
        )

    def _finished(self, left: Tensor, right: Tensor, **known: float | None) -> Update:
        """left · rightᵀ with the smaller of the possible ranks, one factor orthonormal, in the whole space."""
        d_model, m = len(left), len(self.factor)
        if right.shape[1] < min(d_model, m):
            right, triangle = torch.linalg.qr(right)
            left = left @ triangle.T
        elif self.basis is not None and m < d_model:
            left, right = left @ right.T, torch.eye(m).to(right)
        else:
            left, right = torch.eye(d_model).to(left), right @ left.T
        right = right if self.basis is None else self.basis @ right
        if not bool(torch.isfinite(left).all() and torch.isfinite(right).all()):
            raise EditError("the update does not exist: its numbers leave the range of float64")
        return Update(left, right, **known)  # type: ignore[arg-type]

    def _inside(self, keys: Tensor) -> Tensor:
        exact = keys.to(self.factor)
        return exact if self.basis is None else self.basis.T @ exact

    def _whitened(self, keys: Tensor) -> Tensor:
        white: Tensor = torch.linalg.solve_triangular(self.factor, self._inside(keys), upper=False)
        return white


def _cholesky(matrix: Tensor, what: str, remedy: str) -> Tensor:
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(matrix)
    # A pivot is what a direction has of its own beside those before it. Below the rounding of so many steps in float64
    # it is noise.
    known = 10 * len(matrix) * _EPS
    if bool(failed) or not bool((root.diagonal().square() > known * matrix.diagonal()).all()):
        raise EditError(f"the update does not exist: {what} is singular to working precision ({remedy})")
    return root


def _divided(wanted: Tensor, system: Tensor) -> Tensor:
    """R M⁻¹ for an M that need not be symmetric."""
    left: Tensor
    left, failed = torch.linalg.solve_ex(system.T, wanted.T)
    if bool(failed):
        raise EditError(
            "the update does not exist: its denominator is 0, the bare prompt's key lies across the mean key "
            "(use r-rome, which cannot have that)"
        )
    return left.T


def _condition(root: Tensor) -> float:
    """(largest / smallest pivot)²: at most the condition number."""
    pivots = root.diagonal()
    return float((pivots.max() / pivots.min()) ** 2)


def _ratio(missed: Tensor, wanted: Tensor) -> float:
    return float(missed.norm() / wanted.norm().clamp_min(torch.finfo(torch.float64).tiny))
