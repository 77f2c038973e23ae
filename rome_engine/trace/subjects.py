"""The subjects on which the noise level is measured when none are named: those of the package's own facts."""

from __future__ import annotations

import json

from rome_engine.resources import data_file


def default_subjects() -> tuple[str, ...]:
    """Subjects of the package's own facts, in their order."""
    facts = json.loads(data_file("facts.json").read_text(encoding="utf-8"))
    return tuple(dict.fromkeys(fact["subject"] for fact in facts))
