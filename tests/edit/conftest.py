"""What the editors' tests share: every value is searched anew, and none lands in the user's cache."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test is told of a search does not depend on the tests before it."""
    from rome_engine.edit.values import values

    def anew(*given: Any, **named: Any) -> Any:
        return values(*given, **{**named, "store": None})

    monkeypatch.setattr("rome_engine.edit.closed_form.values", anew)
