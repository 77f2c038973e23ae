"""The .npz layout in which ROME's published second moments come.

One flat archive: `mom2.mom2` is the *sum* of k kᵀ (d × d), `mom2.count` the number of keys, `mom2.constructor` names
the class that reads it there, `sample_size` the number of texts asked for; further statistics may lie beside them
(Meng et al. 2022, arXiv 2202.05262, published code).
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import StatisticsError, StorageError
from rome_engine.stats.sealed import write_bytes

_SUM, _COUNT, _CONSTRUCTOR = "mom2.mom2", "mom2.count", "mom2.constructor"


def read_npz(path: Path) -> tuple[Float[Tensor, "d d"], int, float]:
    """The sum of k kᵀ in float64, the number of keys, and the relative precision in which the sum was stored.

    Nothing is unpickled. Raises StatisticsError for a file that is missing, damaged, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if _SUM not in archive or _COUNT not in archive:
                raise StatisticsError(f"{path} is no second moment: it has no {_SUM} and {_COUNT}")
            total, count = archive[_SUM], archive[_COUNT]
    except FileNotFoundError as error:
        raise StatisticsError(f"there is no file {path}: check the path") from error
    except (
        ValueError,
        TypeError,
        EOFError,
        KeyError,
        AttributeError,
        zipfile.BadZipFile,
        zlib.error,
        OSError,
    ) as error:
        raise StatisticsError(f"{path} is damaged or no .npz file ({error}): download it again") from error
    if total.ndim != 2 or total.shape[0] != total.shape[1] or total.dtype.kind != "f" or total.shape[0] == 0:
        raise StatisticsError(
            f"{path} is no second moment: {_SUM} is {total.dtype} {total.shape}, not a square of floats"
        )
    if count.size != 1 or not float(count.item()).is_integer() or count.item() < 1:
        raise StatisticsError(f"{path} is no second moment: {_COUNT} is {count}")
    precision = float(np.finfo(total.dtype).eps)
    matrix = torch.from_numpy(np.ascontiguousarray(total, dtype=np.float64))
    if not bool(torch.isfinite(matrix).all()):
        raise StatisticsError(f"{path} holds numbers that are not finite: download or collect it again")
    # Sums of products rounded one by one are symmetric only up to that rounding.
    if float((matrix - matrix.T).abs().max()) > 1e3 * precision * float(matrix.abs().max()):
        raise StatisticsError(f"{path} is no second moment: {_SUM} is not symmetric")
    return (matrix + matrix.T) / 2, int(count.item()), precision


def write_npz(path: Path, total: Float[Tensor, "d d"], count: int, sample_size: int | None, dtype: torch.dtype) -> None:
    """Write a sum of k kᵀ in that layout. Raises StorageError when it cannot be written."""
    values: dict[str, Any] = {
        _CONSTRUCTOR: "util.runningstats.SecondMoment()",
        _COUNT: count,
        _SUM: total.to(dtype).cpu().numpy(),
    }
    if sample_size is not None:
        values["sample_size"] = sample_size
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    if path.suffix != ".npz":
        raise StorageError(f"{path} must end in .npz: its readers go by the name")
    write_bytes(path, buffer.getvalue())
