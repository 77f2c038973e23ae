"""The uncentred second moment of a layer's keys: what closed-form edits weigh their change against."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import StatisticsError
from rome_engine.stats import packed
from rome_engine.stats.npz import read_npz, write_npz
from rome_engine.stats.provenance import Provenance, merged

Precision = Literal["float32", "float64"]

_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}
# Only blocks on and above the diagonal are multiplied: 0.6 of the work at d = 1536.
_BLOCK = 256
# Keys are converted to float64 in pieces, so that a large batch does not double in memory.
_PIECE = 4096


class SecondMoment:
    """Streaming C = E[k kᵀ] over keys k of d numbers; big and mutable.

    Products and sums are float64 whatever the keys' type, so that the order and the batches in which keys come matter
    only to 1e-15 relative (float32 products would be off by 2e-7). The sum lies where the keys are.

    d: the keys' width (d_mlp). provenance: what the keys are collected from, None where that is unknown.
    """

    def __init__(self, d: int, provenance: Provenance | None = None) -> None:
        if d < 1:
            raise StatisticsError(f"keys have at least one number, not {d}")
        self.d = d
        self.provenance = provenance
        self._count = 0
        self._sum: Tensor | None = None  # blocks on and above the diagonal; below it lies nothing of meaning
        self._precision = torch.finfo(torch.float64).eps
        self._factor: tuple[float, Tensor] | None = None

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
        for begin in range(0, len(flat), _PIECE):
            exact = flat[begin : begin + _PIECE].to(total.device).double()
            for first in range(0, self.d, _BLOCK):
                rows = slice(first, first + _BLOCK)
                total[rows, first:].addmm_(exact[:, rows].T, exact[:, first:])
        self._count += len(flat)
        self._factor = None

    def merge(self, other: SecondMoment) -> None:
        """Take in all keys that another moment has seen; the provenance stays only where both agree.

        Raises StatisticsError for a moment of another width, of other weights, or of another layer.
        """
        if other.d != self.d:
            raise StatisticsError(f"second moments of widths {self.d} and {other.d} cannot be merged")
        provenance = merged(self.provenance, other.provenance)
        if other._sum is not None:
            total = self._total_on(other._sum.device)
            total += other._sum.to(total.device)
        self.provenance = provenance
        self._count += other._count
        self._precision = max(self._precision, other._precision)
        self._factor = None

    def matrix(self) -> Float[Tensor, "d_mlp d_mlp"]:
        """C in float64: the mean of k kᵀ, exactly symmetric. Raises StatisticsError when no key was seen."""
        return self._full() / self._count

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
        factor = self._cholesky(jitter)
        columns = rhs.to(factor).reshape(self.d, -1)
        return torch.cholesky_solve(columns, factor).reshape(rhs.shape).to(rhs.device)

    def save(self, path: str | Path, *, dtype: Precision = "float32") -> None:
        """Write the sum's upper triangle to a safetensors file, whole or not at all.

        dtype: float64 comes back exactly, float32 rounded to 6e-8 an entry at half the size.
        Raises StatisticsError when no key was seen, StorageError when the file cannot be written.
        """
        header = {
            "d": self.d,
            "count": self._count,
            "dtype": dtype,
            "precision": max(self._precision, torch.finfo(_DTYPES[dtype]).eps),
            "provenance": None if self.provenance is None else self.provenance.to_dict(),
        }
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
            about = header["provenance"]
            moment = cls(d, None if about is None else Provenance.from_dict(about))
            if count < 1 or values.numel() != d * (d + 1) // 2:
                raise ValueError(f"{values.numel()} numbers of {count} keys for d = {d}")
        except (KeyError, TypeError, ValueError) as error:
            raise StatisticsError(f"{path} is damaged ({error}): delete it and collect again") from error
        moment._sum, moment._count, moment._precision = packed.unpack(values.double(), d), count, precision
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
        if self._sum is None:
            # Apple's devices have no float64.
            place = torch.device("cpu") if device.type == "mps" else device
            self._sum = torch.zeros(self.d, self.d, dtype=torch.float64, device=place)
        return self._sum

    def _full(self) -> Float[Tensor, "d d"]:
        """The whole sum, on the CPU."""
        if self._sum is None:
            raise StatisticsError(f"the second moment{self._where()} has seen no keys: collect some tokens first")
        upper = self._sum.cpu().triu()
        return upper + upper.triu(1).T

    def _cholesky(self, jitter: float) -> Tensor:
        if self._factor is not None and self._factor[0] == jitter:
            return self._factor[1]
        matrix = self.matrix()
        diagonal = matrix.diagonal()
        diagonal += jitter * diagonal.mean()
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix)
        # A pivot is the part of a number's variance that the numbers before it do not tell. Below the rounding of C's
        # entries it is noise, and so would be the solution.
        told_apart = factor.diagonal().square() > self._precision * diagonal
        if bool(failed) or not bool(told_apart.all()):
            raise StatisticsError(self._singular(int((diagonal == 0).sum())))
        self._factor = jitter, factor
        return factor

    def _singular(self, dead: int) -> str:
        inactive = f", {dead} of them never active" if dead else ""
        return (
            f"the second moment{self._where()} is singular to working precision ({self._count} keys of {self.d} "
            f"numbers{inactive}): collect at least {max(10 * self.d, 2 * self._count)} tokens, or give a jitter"
        )

    def _where(self) -> str:
        return "" if self.provenance is None else f" of layer {self.provenance.layer}"
