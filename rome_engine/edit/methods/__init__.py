"""The editing methods, one file each, found by looking: a new method is one file that lists editors in `EDITORS`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType

from rome_engine.edit.editor import Editor
from rome_engine.errors import EditError


@cache
def editors() -> MappingProxyType[str, Editor]:
    """Every method by its name."""
    found: dict[str, Editor] = {}
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        for editor in getattr(importlib.import_module(module.name), "EDITORS", ()):
            found[editor.name] = editor
    return MappingProxyType(found)


def editor(name: str) -> Editor:
    """The method of this name. Raises EditError that names the known ones."""
    known = editors()
    if name not in known:
        raise EditError(f"there is no method {name!r}: known are {', '.join(sorted(known))}")
    return known[name]
