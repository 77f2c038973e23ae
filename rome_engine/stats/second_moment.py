"""The uncentred second moment of a layer's keys: what closed-form edits weigh their change against."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import StatisticsError
from rome_engine.stats import packed
from rome_engine.stats.convergence import Convergence
from rome_engine.stats.npz import read_npz, write_npz
from rome_engine.stats.provenance import Provenance, merged

Precision = Literal["float32", "float64"]
Stored = Literal["float16", "float32", "float64"]

_DTYPES: dict[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
# Only blocks on and above the diagonal are multiplied: 0.6 of the work at d = 1536.
_BLOCK = 256
PIECE = 4096
"""Keys that are converted to float64 together, so that a large batch does not double in memory, and summed apart before
they are added: wherever that is done, these are the bits that are added."""


class SecondMoment:
    """Streaming C = E[k kᵀ] over keys k of d numbers; big and mutable.

    Products and sums are float64 whatever the keys' type, so that the order and the batches in which keys come matter
    only to 1e-15 relative (float32 products would be off by 2e-7). The sum lies where the keys are.

    d: the keys' width (d_mlp). provenance: what the keys are collected from, None where that is unknown.
    convergence: how much C⁻¹k still moved over the second half of the collection, None where that is unknown or keys
    have come since.
    """

    def __init__(self, d: int, provenance: Provenance | None = None) -> None:
        if d < 1:
            raise StatisticsError(f"keys have at least one number, not {d}")
        self.d = d
        self.provenance = provenance
        self.convergence: Convergence | None = None
        self._count = 0
        self._sum: Tensor | None = None  # blocks on and above the diagonal; below it lies nothing of meaning
        self._precision = torch.finfo(torch.float64).eps
        self._factor: tuple[float, Tensor] | None = None
        self._eigen: tuple[Tensor, Tensor] | None = None

    @property
    def count(self) -> int:
        """The number of keys seen."""
        return self._count

    @torch.no_grad()
    def update(self, keys: Float[Tensor, "*batch d_mlp"]) -> None:
        """Take in keys of any floating type and any leading dimensions.

        Raises StatisticsError, and stays as it was, for keys of another width or with numbers that are not finite.
        """
        if keys.shape[-1] != self.d:
            raise StatisticsError(f"keys of {keys.shape[-1]} numbers cannot enter a second moment of width {self.d}")
        flat = keys.reshape(-1, self.d)
        if not bool(torch.isfinite(flat).all()):
            raise StatisticsError(f"keys{self._where()} are not finite: load the model in float32 or bfloat16")
        if not len(flat):
            return
        total = self._total_on(flat.device)
        for begin in range(0, len(flat), PIECE):
            exact = flat[begin : begin + PIECE].to(total.device).double()
            for first in range(0, self.d, _BLOCK):
                rows = slice(first, first + _BLOCK)
                total[rows, first:] += exact[:, rows].T @ exact[:, first:]
        self._count += len(flat)
        self._factor = self._eigen = self.convergence = None

    def merge(self, other: SecondMoment) -> None:
        """Take in all keys that another moment has seen; the provenance stays only where both agree.

        Raises StatisticsError for a moment of another width, of other weights, or of another layer.
        """
        if other.d != self.d:
            raise StatisticsError(f"second moments of widths {self.d} and {other.d} cannot be merged")
        provenance = merged(self.provenance, other.provenance)
        if other._sum is not None:
            total = self._total_on(other._sum.device if self._sum is None else self._sum.device)
            total += other._sum.to(total.device)
        self.provenance = provenance
        self._count += other._count
        self._precision = max(self._precision, other._precision)
        self._factor = self._eigen = self.convergence = None

    def matrix(self, *, jitter: float = 0.0) -> Float[Tensor, "d_mlp d_mlp"]:
        """C in float64: the mean of k kᵀ, exactly symmetric; jitter as in `solve`.

        Raises StatisticsError when no key was seen.
        """
        matrix = self._full() / self._count
        diagonal = matrix.diagonal()
        diagonal += jitter * diagonal.mean()
        return matrix

    def solve(self, rhs: Float[Tensor, "d_mlp *columns"], *, jitter: float = 0.0) -> Float[Tensor, "d_mlp *columns"]:
        """C⁻¹ rhs in float64 by Cholesky, on rhs's device; the factor is kept until the next update.

        jitter: nothing is added to C unless asked; then it is jitter × (mean of C's diagonal) on the diagonal.
        Raises StatisticsError where C is singular to the precision it is known in: too few keys, or numbers that are
        never or always together active.
        """
        if rhs.shape[0] != self.d or rhs.ndim > 2:
            raise StatisticsError(
                f"C is {self.d} × {self.d}: it cannot be solved for a right side of shape {tuple(rhs.shape)}"
            )
        factor = self.factor(jitter=jitter)
        columns = rhs.to(factor).reshape(self.d, -1)
        return torch.cholesky_solve(columns, factor).reshape(rhs.shape).to(rhs.device)

    def factor(self, *, jitter: float = 0.0) -> Float[Tensor, "d_mlp d_mlp"]:
        """The lower triangular L of C = L Lᵀ in float64 on the CPU, kept until the next update; jitter as in `solve`.

        Raises StatisticsError as `solve` does.
        """
        if self._factor is not None and self._factor[0] == jitter:
            return self._factor[1]
        matrix = self.matrix(jitter=jitter)
        diagonal = matrix.diagonal()
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix)
        # A pivot is the part of a number's variance that the numbers before it do not tell. Below the rounding of C's
        # entries, or of so many steps in float64, it is noise, and so would be the solution.
        known = max(self._precision, 10 * self.d * torch.finfo(torch.float64).eps)
        told_apart = factor.diagonal().square() > known * diagonal
        if bool(failed) or not bool(told_apart.all()):
            raise StatisticsError(self._singular(int((diagonal == 0).sum())))
        self._factor = jitter, factor
        return factor

    @property
    def precision(self) -> float:
        """The relative precision that the entries are known to: float32's for a moment that was saved in it."""
        return self._precision

    def null_space(self, threshold: float) -> Float[Tensor, "d_mlp directions"]:
        """C's eigenvectors with eigenvalues below the threshold, orthonormal columns in float64 on the CPU.

        The decomposition is kept until the next update. Raises StatisticsError when no key was seen.
        """
        if self._eigen is None:
            values, vectors = torch.linalg.eigh(self.matrix())
            self._eigen = values, vectors
        values, vectors = self._eigen
        return vectors[:, values < threshold]

    def save(self, path: str | Path, *, dtype: Stored = "float32") -> None:
        """Write the sum's upper triangle to a safetensors file, whole or not at all.

        dtype: float64 comes back exactly, float32 rounded to 6e-8 an entry at half the size, float16 to 5e-4 of its
        correlation at a quarter (C⁻¹k of the embedded model turns by 1 − cos = 3e-7 then).
        Raises StatisticsError when no key was seen, StorageError when the file cannot be written.
        """
        header = {
            "d": self.d,
            "count": self._count,
            "dtype": dtype,
            "precision": max(self._precision, torch.finfo(_DTYPES[dtype]).eps),
            "provenance": None if self.provenance is None else self.provenance.to_dict(),
            "convergence": None if self.convergence is None else self.convergence.to_dict(),
        }
        if dtype == "float16":
            packed.write_half(Path(path), self._full(), header)
        else:
            packed.write(Path(path), packed.pack(self._full()).to(_DTYPES[dtype]), header)

    @classmethod
    def load(cls, path: str | Path) -> SecondMoment:
        """Read a file of `save`.

        Raises StatisticsError for a file that is missing, damaged, or something else; StorageError where it may not be
        read.
        """
        values, header = packed.read(Path(path))
        try:
            d, count, precision = int(header["d"]), int(header["count"]), float(header["precision"])
            about, convergence = header["provenance"], header.get("convergence")
            moment = cls.of_packed(values, d, count, None if about is None else Provenance.from_dict(about))
            moment.convergence = None if convergence is None else Convergence.from_dict(convergence)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StatisticsError(f"{path} is damaged ({error}): delete it and collect again") from error
        moment._precision = precision
        return moment

    def packed_sum(self) -> Float[Tensor, " packed"] | None:
        """The upper triangle of Σ k kᵀ, row by row, in float64 on the CPU; None where no key was seen."""
        return None if self._sum is None else packed.pack(self._sum.cpu())

    @classmethod
    def of_packed(
        cls, packed_sum: Float[Tensor, " packed"], d: int, count: int, provenance: Provenance | None
    ) -> SecondMoment:
        """The inverse of `packed_sum`, for that many keys. Raises ValueError where the numbers do not fit together."""
        if count < 1 or packed_sum.numel() != d * (d + 1) // 2:
            raise ValueError(f"{packed_sum.numel()} numbers of {count} keys for d = {d}")
        moment = cls(d, provenance)
        moment._sum, moment._count = packed.unpack(packed_sum.double(), d), count
        return moment

    def export_npz(self, path: str | Path, *, sample_size: int | None = None, dtype: Precision = "float32") -> None:
        """Write the .npz layout of ROME's published second moments: the sum and the count, no provenance.

        Raises StatisticsError when no key was seen, StorageError when the file cannot be written.
        """
        write_npz(Path(path), self._full(), self._count, sample_size, _DTYPES[dtype])

    @classmethod
    def import_npz(cls, path: str | Path, provenance: Provenance | None = None) -> SecondMoment:
        """Read the .npz layout of ROME's published second moments. Raises StatisticsError for anything else."""
        total, count, precision = read_npz(Path(path))
        moment = cls(len(total), provenance)
        moment._sum, moment._count, moment._precision = total, count, precision
        return moment

    def _total_on(self, device: torch.device) -> Tensor:
        # Apple's devices have no float64.
        place = torch.device("cpu") if device.type == "mps" else device
        if self._sum is None:
            self._sum = torch.zeros(self.d, self.d, dtype=torch.float64, device=place)
        self._sum = self._sum.to(place)  # one that comes from a file lies on the CPU
        return self._sum

    def _full(self) -> Float[Tensor, "d d"]:
        """The whole sum, on the CPU."""
        if self._sum is None:
            raise StatisticsError(f"the second moment{self._where()} has seen no keys: collect some tokens first")
        upper = self._sum.cpu().triu()
        return upper + upper.triu(1).T

    def _singular(self, dead: int) -> str:
        inactive = f", {dead} of them never active" if dead else ""
        return (
            f"the second moment{self._where()} is singular to working precision ({self._count} keys of {self.d} "
            f"numbers{inactive}): collect at least {max(10 * self.d, 2 * self._count)} tokens, or give a jitter"
        )

    def _where(self) -> str:
        return "" if self.provenance is None else f" of layer {self.provenance.layer}"
