"""Round numbers for an axis."""

from __future__ import annotations

import numpy as np


def round_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """At most seven multiples of 1, 2 or 5 times a power of ten between two values, with how they are written."""
    power = 10.0 ** np.floor(np.log10((high - low) / 6))
    distance = float(power * next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * power) <= 7))
    decimals = max(0, -int(np.floor(np.log10(distance))))
    first, last = int(np.ceil(low / distance)), int(np.floor(high / distance))
    values = [distance * place for place in range(first, last + 1)]
    return [(value, f"{value:.{decimals}f}".replace("-", "−")) for value in values]
