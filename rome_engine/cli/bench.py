"""`rome-engine bench`: an editing method measured on a data set, in a run that can be gone on with."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rome_engine.cli import bench_inputs, editing, options, output, spreading
from rome_engine.cli.loading import Source, loads

if TYPE_CHECKING:
    from rome_engine.bench.datasets import DataSet
    from rome_engine.bench.plan import Plan
    from rome_engine.bench.run import Run
    from rome_engine.bench.runner import Spread
    from rome_engine.cluster import Cluster
    from rome_engine.model.language_model import LanguageModel

_WHAT = "What is run"


@loads(split=True)
def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="SET",
            help="A data set by name, which is downloaded once: counterfact, zsre, mquake, mquake-t, "
            "knowedit-counterfact, knowedit-recent, knowedit-zsre, qaedit, ripple-popular, ripple-random, "
            "ripple-recent or lre; or own, the facts that are included. Without it: those.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="A data set from a file instead, in any of these schemas."),
    ] = None,
    model: Source = Source(),
    method: Annotated[str, typer.Option(metavar="NAME", rich_help_panel=_WHAT, help=editing.METHODS)] = "r-rome",
    protocol: Annotated[
        Literal["single", "batch", "sequential"],
        typer.Option(
            metavar="NAME",
            rich_help_panel=_WHAT,
            help="single: each record edited alone, from the untouched model. batch: all at once. sequential: in "
            "batches on top of each other, all records so far scored after each.",
        ),
    ] = "single",
    batch: Annotated[
        int, typer.Option(metavar="N", min=1, rich_help_panel=_WHAT, help="Records of a batch, for sequential.")
    ] = 50,
    every: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            rich_help_panel=_WHAT,
            help="For sequential: score all records so far after every N-th batch and the last, after the others the "
            "newest batch alone.",
        ),
    ] = 1,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, rich_help_panel=_WHAT, help="Only the first N records.")
    ] = None,
    order: Annotated[
        Literal["file", "random"],
        typer.Option(metavar="NAME", rich_help_panel=_WHAT, help="Records as in the file, or shuffled by --seed."),
    ] = "file",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            rich_help_panel=_WHAT,
            help="A metric, such as es, ge or free_em; may be given again. all: every one that the records have "
            "something for. Without it: those but ge and rs, which take ten times as long; rs too where --references "
            "is given. What is not named is not measured: beside es or ps, name free_em too, whether free text says "
            "the same.",
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_WHAT,
            help="Texts by record id, as JSON (an object of lists) or lines of JSON (id, references, essence): "
            "references that rs compares free text with, and essence texts whose perplexity essence_ppl measures.",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_WHAT,
            help="Plain text whose perplexity is measured before, and after each batch that stays in force; not for "
            "the protocol single.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="NAME",
            rich_help_panel=_WHAT,
            help="A task of the lm-evaluation-harness (the extra lm-eval), such as hellaswag, run on the whole model "
            "as --text is; may be given again.",
        ),
    ] = None,
    task_limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, rich_help_panel=_WHAT, help="Only N examples of each task.")
    ] = None,
    task_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", rich_help_panel=_WHAT, help="Where task files of your own lie.")
    ] = None,
    layer: editing.Layer = None,
    seed: options.Seed = 0,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="FILE",
            help="Where each record is kept when it is finished; the same command goes on from there. Without it: a "
            "file in this folder, named after the data set, the method and the protocol.",
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            metavar=options.FLAG,
            help="Try the failed records of a run of single edits once more; what is done stays as it is.",
        ),
    ] = False,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write every record's figures as .csv, .parquet or .json; may be given again. `compare` makes pages.",
        ),
    ] = None,
    memory: Annotated[
        float, typer.Option(metavar="GIB", min=0.01, help="What a batch may use beside the model, in GiB.")
    ] = 2.0,
    corpus: editing.Corpus = None,
    tokens: editing.Tokens = options.TOKENS,
    workers: spreading.Workers = None,
    ray: spreading.Ray = None,
    as_json: options.Json = False,
) -> None:
    """Measure an editing method on a data set: a resumable run of records, each edited, scored and kept.

    It can be interrupted, or killed, at any moment: the same command goes on, and ends with the same rows (to
    rounding).
    """
    from rome_engine.bench.plan import Plan
    from rome_engine.bench.runner import check_again, run_benchmark
    from rome_engine.bench.spreading import check_protocol
    from rome_engine.edit import editor
    from rome_engine.report.run_saving import RUN_SUFFIXES, save_run

    files = output.checked(out, RUN_SUFFIXES, model.name)
    output.check_writable(run)
    cluster = spreading.cluster(workers, ray)
    if cluster is not None:
        check_protocol(protocol)
    chosen = editor(method)
    held_out = None if text is None else bench_inputs.Text.read(text)
    bench_inputs.check_metrics(metric)
    records = bench_inputs.records(name, data, references)
    measured = bench_inputs.measured(metric, records)
    tasks = bench_inputs.Tasks.asked(task, task_limit, task_folder)
    about = None if held_out is None else held_out.sha256
    asked = None if tasks is None else tasks.about
    plan = Plan(method, measured, protocol, batch, limit, order, seed, about, every, asked)
    path = Path(f"bench-{Path(records.name).stem}-{method}-{protocol}.sqlite") if run is None else run
    output.check_writable(path)
    output.check_apart((path, *files), (data, references, text, corpus), model.name)
    if again:
        check_again(protocol, path)
    named = {"seed": seed} if layer is None else {"seed": seed, "layer": layer}
    bench_inputs.check_run(path, plan, records, named, model.dtype)
    bench_inputs.tell_left_out(records)

    loaded = model.load()
    config = editing.settings(loaded, method, layer, seed, "warn")
    moments = editing.collected(loaded, chosen.layers(config), corpus, tokens)
    given: Any = {"moments": moments, "config": config, "memory": round(memory * 2**30)}
    with _resumable(path), output.phases() as told, _quietly(), _spread(cluster, model, loaded, plan, given) as spread:
        general = bench_inputs.whole_model(held_out, tasks, told)
        found = run_benchmark(
            loaded, plan, records, path, general=general, spread=spread, told=told, again=again, **given
        )
    for file in files:
        save_run(found, file)
    if as_json:
        output.emit(_record(found, records))
    else:
        _show(found)
    output.written(path, *files)
    _fail_if_all_failed(found)


@contextmanager
def _spread(
    cluster: Cluster | None, model: Source, loaded: LanguageModel, plan: Plan, given: Any
) -> Iterator[Spread | None]:
    """Where records are worked on; None for this process."""
    from rome_engine.bench.spreading import spreader

    if cluster is None:
        yield None
        return
    copies = spreading.replica(loaded, *astuple(model))
    with spreading.aside(), spreader(cluster, copies, loaded, plan, **given) as spread:
        yield spread


@contextmanager
def _resumable(run: Path) -> Iterator[None]:
    """Says after an interruption where the run goes on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        said = f"interrupted: the finished records are kept in {run}, and the same command goes on from there"
        raise typer.Exit(output.complain(said, 1, "")) from interrupt


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings about single edits: a record's figures say what became of it."""
    logger = logging.getLogger("rome_engine.edit")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _fail_if_all_failed(run: Run) -> None:
    last = run.at(run.last)
    if any(row.status == "done" for row in last):
        return
    remedy = "try them --again" if run.configuration["protocol"] == "single" else "start a new run with --run"
    why = f"all {len(last)} records failed, the first with: {last[0].reason} (when that is put right, {remedy})"
    raise typer.Exit(output.complain(why, 1))


def _record(run: Run, data: DataSet) -> dict[str, Any]:
    from rome_engine.bench.comparison import compare

    return {
        "run": str(run.path),
        "data": {"name": data.name, "records": len(data.records), "malformed": [vars(one) for one in data.malformed]},
        **compare([run]).to_dict(),
    }


def _show(run: Run) -> None:
    from rome_engine.bench.comparison import compare
    from rome_engine.report.comparison_text import comparison_text

    output.stdout().print(comparison_text(compare([run])))
