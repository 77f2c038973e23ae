"""`rome-engine compare`: runs of the benchmark beside one another, paired by record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rome_engine.cli import options, output


def command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Runs as `rome-engine bench` wrote them, one or more.")
    ],
    figure: Annotated[
        list[str] | None,
        typer.Option(
            "--figure",
            "-f",
            metavar="NAME",
            help="A figure to compare, such as es, or ps@1; repeatable. Without it: all that the runs have. Fewer "
            "figures are fewer tests, for whose number p values are corrected.",
        ),
    ] = None,
    checkpoint: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="The checkpoint of sequential runs to read. Without it: each one's last."
        ),
    ] = None,
    seed: options.Seed = 0,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Save the comparison, by suffix: .html a page, .md tables, .png, .svg or .pdf pictures, .json all, "
            "or figures as .csv or .parquet; repeatable.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare runs: a leaderboard with intervals, paired tests, effect sizes, where methods disagree, and retention."""
    from rome_engine.bench.comparison import compare
    from rome_engine.bench.run_file import read_run
    from rome_engine.report.comparison_saving import COMPARISON_SUFFIXES, save_comparison
    from rome_engine.report.comparison_text import comparison_text

    files = output.checked(out, COMPARISON_SUFFIXES, None, *runs)
    with output.stderr().status("comparing"):
        found = compare([read_run(path) for path in runs], figures=figure, seed=seed, checkpoint=checkpoint)
    for path in files:
        save_comparison(found, path)
    if as_json:
        output.emit(found.to_dict())
    else:
        output.stdout().print(comparison_text(found))
    output.written(*files)
