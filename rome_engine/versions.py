"""What took part in a number, by version."""

from __future__ import annotations

import platform
from importlib.metadata import version


def versions(*others: str) -> dict[str, str]:
    """Versions of this package, of the libraries that compute, of others that are installed, and of Python."""
    names = ("rome-engine", "torch", "transformers", *others)
    return {name.replace("-", "_"): version(name) for name in names} | {"python": platform.python_version()}
