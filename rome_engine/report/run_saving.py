"""Every record of a benchmark run as a tidy table, or all of it as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rome_engine.bench.run import BEFORE, Run
from rome_engine.files import suffix_among, write_json
from rome_engine.report.tables import TABLE_SUFFIXES, save_table

RUN_SUFFIXES = (".json", *TABLE_SUFFIXES)


def save_run(run: Run, path: Path) -> None:
    """Save a run as what the suffix says: .json all of it, free texts too; .csv and .parquet a row a record and figure.

    The seconds of a record, by phase, are in each of its rows.

    A record that failed has one row with its reason. Raises as `save_table` does.
    """
    about = {
        "configuration": dict(run.configuration),
        "environment": dict(run.environment),
        "total": run.total,
        "general": {_when(at): dict(figures) for at, figures in run.general.items()},
    }
    if suffix_among(path, RUN_SUFFIXES) == ".json":
        write_json(path, {**about, "records": [asdict(row) for row in run.rows]})
    else:
        save_table(list(_rows(run)), path, about)


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    phases = sorted({phase for row in run.rows for phase in row.seconds})
    for row in run.rows:
        spent = {f"seconds_{phase}": row.seconds.get(phase) for phase in phases}
        whose = {
            "position": row.position,
            "id": row.id,
            "batch": row.batch,
            "checkpoint": _when(row.checkpoint),
            "status": row.status,
            "reason": row.reason,
        }
        for name, value in row.figures.items() or [(None, None)]:
            yield {**whose, "figure": name, "value": value, **spent}


def _when(checkpoint: int) -> str:
    return "before" if checkpoint == BEFORE else str(checkpoint)
