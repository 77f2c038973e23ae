"""Corrections of the found architecture for families whose structure misleads the search, one small file each.

A file names the config's `MODEL_TYPES` it is for and has `correct(architecture, config) -> Architecture`. What it
returns is proven like any other proposal. None of the tested families needs one.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from rome_engine.model.architecture import Architecture


def corrected(architecture: Architecture, config: Any) -> Architecture:
    """The architecture as its family's file has it, unchanged where there is none."""
    for found in pkgutil.iter_modules(__path__, f"{__name__}."):
        family = importlib.import_module(found.name)
        if architecture.family in family.MODEL_TYPES:
            result: Architecture = family.correct(architecture, config)
            return result
    return architecture
