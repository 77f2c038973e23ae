#!/usr/bin/env python3
"""The published runs: makes those that are missing, each by one command, and writes docs/results/ from all of them.

    python scripts/publish_runs.py --data counterfact_500.json --runs FOLDER [--only single] [--no-running]

A run that was interrupted goes on. --no-running writes the tables from the runs that are there. The data set is the
first 500 records of a CounterFact sample in the original schema, of which no sentence is written anywhere here.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rome_engine.bench.comparison import compare
from rome_engine.bench.run import Run
from rome_engine.bench.run_file import read_run
from rome_engine.errors import RomeEngineError
from rome_engine.files import write_whole
from rome_engine.report.comparison_text import comparison_markdown

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
FORCED = ("es", "ps", "ns", "em", "pm", "nm")
FREE = ("free_em", "free_begins")
FIGURES = ("s", *FORCED, *FREE, "kl", "locality")


@dataclass(frozen=True)
class Group:
    """Runs that are compared. note: what a reader must know beside the figures."""

    name: str
    title: str
    methods: tuple[str, ...]
    options: str
    note: str = ""

    def command(self, method: str, data: str) -> list[str]:
        """What makes the run of a method."""
        run = f"{self.name}-{method}.sqlite"
        return ["rome-engine", "bench", "--data", data, "--method", method, *shlex.split(self.options), "--run", run]


def _metrics(*names: str) -> str:
    return " ".join(f"--metric {name}" for name in names)


MANY = ("memit", "alphaedit", "emmet", "ft-l")
GROUPS = (
    Group(
        "single",
        "300 single edits",
        ("r-rome", "rome", "emmet", "memit", "alphaedit", "ft-l"),
        "--limit 300",
        "Each record is edited from the untouched model. MEMIT with a history is MEMIT here.",
    ),
    Group("quality", "500 single edits of ROME and R-ROME", ("r-rome", "rome"), _metrics(*FORCED, *FREE)),
    Group(
        "batch",
        "500 records edited at once",
        MANY,
        f"--protocol batch {_metrics(*FORCED, *FREE)}",
        "ROME and R-ROME take one fact: a batch of theirs is the last checkpoint of the sequential runs. MEMIT with a "
        "history is MEMIT here. FT-L has its settings of single edits, with which so many facts are not learnt.",
    ),
    Group(
        "sequential",
        "500 records in batches of 50",
        ("rome", "r-rome", "memit", "memit-history", "emmet", "alphaedit", "ft-l"),
        f"--protocol sequential --batch 50 --every 5 {_metrics(*FORCED, *FREE)}",
        "ROME and R-ROME edit a batch's records one after another. All records so far are scored after the fifth batch "
        "and the last (checkpoints 4 and 9; they are counted from 0), after the others the newest batch alone.",
    ),
)


def main() -> int:
    arguments = _arguments()
    try:
        for group in GROUPS:
            if arguments.only in (None, group.name):
                _publish(group, arguments)
    except (RomeEngineError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _publish(group: Group, arguments: argparse.Namespace) -> None:
    arguments.runs.mkdir(parents=True, exist_ok=True)
    data = str(arguments.data.resolve())
    program = str(Path(sys.executable).parent / "rome-engine")
    if arguments.running:
        for method in group.methods:
            _, *options = group.command(method, data)
            subprocess.run([program, *options], cwd=arguments.runs, check=True, stdout=subprocess.DEVNULL)
    runs = [
        read_run(path)
        for path in (arguments.runs / f"{group.name}-{method}.sqlite" for method in group.methods)
        if path.exists()
    ]
    runs = [run for run in runs if _finished(run)]
    if runs:
        path = arguments.out / f"{group.name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, ("\n".join(_page(group, runs, arguments.data.name)) + "\n").encode())
        print(f"{path}: {len(runs)} of {len(group.methods)} runs")


def _finished(run: Run) -> bool:
    records, batch = run.total, run.configuration["batch"] or run.total
    last = 0 if run.configuration["protocol"] == "single" else -(-records // batch) - 1
    return len(run.at(last)) == records


def _page(group: Group, runs: Sequence[Run], data: str) -> Iterator[str]:
    about = runs[0].environment
    yield f"# {group.title}\n"
    if group.note:
        yield f"{group.note}\n"
    versions = ", ".join(f"{name} {about[name]}" for name in ("rome_engine", "torch", "transformers") if name in about)
    yield (
        f"{about['model']} (weights {about['weights'][:16]}), {about['dtype']} on {about['device']}; {versions}. "
        f"Data: {data}, sha256 {runs[0].configuration['data']['sha256'][:16]}. Written by `scripts/publish_runs.py`.\n"
    )
    yield "| Run | Command | Threads | Editing, s | Scoring, s |\n| --- | --- | --- | --- | --- |"
    for run in runs:
        command = shlex.join(group.command(run.method, data))
        times = [sum(row.seconds.get(phase, 0.0) for row in run.rows) for phase in ("edit", "score")]
        cells = (run.name, f"`{command}`", run.environment["threads"], *(f"{time:,.0f}" for time in times))
        yield f"| {' | '.join(map(str, cells))} |"
    yield "\nSeconds depend on what else the machine did. Values that an earlier run found were not searched again.\n"
    there = {name for row in runs[0].rows for name in row.figures}
    figures = [name for name in FIGURES if name == "s" or f"{name}@1" in there]
    yield comparison_markdown(compare(runs, figures=figures)).partition("\n")[2].strip()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the data set's file")
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the runs' files")
    parser.add_argument("--only", choices=[group.name for group in GROUPS], help="these runs alone")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the tables go (docs/results)")
    parser.add_argument("--no-running", dest="running", action="store_false", help="tables of the runs that are there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
