"""This package's own facts, the default set, and any file of such facts (`rome_engine.fact_files`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rome_engine.bench.datasets.asked import record_of
from rome_engine.bench.datasets.dataset import Schema
from rome_engine.bench.record import Record
from rome_engine.fact_files import schemas

FILE = "facts.json"
"""The shipped facts' name among the package's data files."""


def record(content: Mapping[str, Any], id: str) -> Record:
    """A fact and its questions; one without a target_new, as the field's facts for tracing are, cannot be edited."""
    return record_of(schemas.fact(content), id)


SCHEMA = Schema("own", ("prompt subject",), record)
