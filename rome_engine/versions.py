"""What took part in a number, by version."""

from __future__ import annotations

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """Versions of this package, of the libraries that compute, and of Python."""
    names = ("rome-engine", "torch", "transformers")
    return {name.replace("-", "_"): version(name) for name in names} | {"python": platform.python_version()}
