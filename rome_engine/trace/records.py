"""Reading a result back from its JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rome_engine.errors import TraceError


def read_record(path: str | Path, what: str) -> Any:
    """The JSON value in a file. Raises TraceError, which says what was looked for, where there is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TraceError(f"no {what} can be read from {path}: {error}") from error
