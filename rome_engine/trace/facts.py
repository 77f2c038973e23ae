"""The package's own facts, for what a trace needs of known subjects when none are named."""

from __future__ import annotations

import json

from rome_engine.facts import Fact
from rome_engine.resources import data_file


def default_facts() -> tuple[Fact, ...]:
    """The facts that come with the package, in their order."""
    return tuple(Fact.from_dict(record) for record in json.loads(data_file("facts.json").read_text(encoding="utf-8")))


def default_subjects() -> tuple[str, ...]:
    """Their subjects, each once: those on which the noise level is measured."""
    return tuple(dict.fromkeys(fact.subject for fact in default_facts()))
