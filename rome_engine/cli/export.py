"""`rome-engine export`: every record of a benchmark's run, for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rome_engine.cli import options, output


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run as `rome-engine bench` wrote it.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…", help="By suffix: .csv or .parquet, a row a record and figure, or .json, free texts too."
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Write every record of a run, finished or not; neither the model nor the machine of then is needed."""
    from rome_engine.bench.run_file import read_run
    from rome_engine.report.run_saving import RUN_SUFFIXES, save_run

    checked = output.checked(files, RUN_SUFFIXES, None, run)
    found = read_run(run)
    for file in checked:
        save_run(found, file)
    output.written(*checked)
    if as_json:
        output.emit({"run": found.name, "written": [str(file) for file in checked]})
