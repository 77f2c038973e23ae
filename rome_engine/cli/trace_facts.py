"""`rome-engine trace-facts`: which states carry facts, averaged over a file of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rome_engine.cli import options, output, spreading, tracing
from rome_engine.cli.loading import load

if TYPE_CHECKING:
    from rome_engine.trace.over_facts import Watch

CLASSIC = ("hidden", "mlp", "attn")


def command(
    facts: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Facts as a JSON list, one JSON object a line (.jsonl) or a table (.csv): this program's own (prompt, "
            "subject, target_true), ROME's known facts (prompt, subject, attribute), or CounterFact's. Without it: the "
            "facts that are included.",
        ),
    ] = None,
    model: options.Model = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="FILE",
            help="Where each fact is kept when it is finished; the same command goes on from there. Without it: a file "
            "in this folder, named after the facts and the model.",
        ),
    ] = None,
    kind: tracing.Kinds = None,
    window: tracing.Windows = None,
    samples: tracing.Samples = 10,
    noise: tracing.Noise = None,
    subjects: tracing.Subjects = None,
    direction: tracing.Direction = "restore",
    sever: tracing.Sever = None,
    tokens: tracing.Tokens = "all",
    answer_tokens: Annotated[
        Literal["all", "first"] | None,
        typer.Option(
            metavar="WHICH",
            help="What of an answer is asked for and scored: all of its tokens, each after the ones before it, or the "
            "first alone, as Meng et al. did. Without it: all, and first with --preset.",
        ),
    ] = None,
    metric: Annotated[
        tracing.Metric,
        typer.Option(
            metavar="NAME",
            help="What the pictures show: probability, log_probability, logit_difference (of facts with a foil), kl "
            "(to the clean run) or rank. Tables, pages and JSON hold them all. May be changed afterwards, like the "
            "next three.",
        ),
    ] = "probability",
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Trace the first N of the facts that the model answers right."),
    ] = None,
    threshold: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="Leave facts out of the means whose total effect is under X of probability: too small to localise.",
        ),
    ] = 0.05,
    include_small: Annotated[
        bool, typer.Option("--include-small", metavar=options.FLAG, help="Average these facts all the same.")
    ] = False,
    preset: Annotated[
        Literal["rome", "rome-severed"] | None,
        typer.Option(metavar="NAME", help="rome, or rome-severed: exactly as in Meng et al. 2022; see trace."),
    ] = None,
    engine: tracing.Engine = "fast",
    bos: tracing.BosPolicy = "auto",
    seed: options.Seed = 1,
    memory: tracing.Memory = None,
    workers: spreading.Workers = None,
    ray: spreading.Ray = None,
    out: tracing.Outputs = None,
    as_json: options.Json = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
) -> None:
    """Trace a file of facts and average by token role: which states carry the answers to prompts of many kinds.

    Only facts that the model answers right are traced. It can be interrupted: the same command goes on.
    """
    from rome_engine.report.average_saving import AVERAGE_SUFFIXES, save_average
    from rome_engine.report.average_terminal import average_text
    from rome_engine.resources import data_file
    from rome_engine.trace import averaging, over_facts
    from rome_engine.trace.factfile import read_facts
    from rome_engine.trace.spreading import spreader
    from rome_engine.trace.store import check_run

    files = output.checked(out, AVERAGE_SUFFIXES, model)
    output.check_writable(run)
    cluster = spreading.cluster(workers, ray)
    averaging.check(metric, threshold)
    settings = tracing.settings(
        kinds=kind,
        windows=window,
        noise=noise,
        subjects=subjects,
        severed=sever,
        tokens=tokens,
        memory=memory,
        default_kinds=("hidden",) if preset == "rome-severed" else CLASSIC,
        samples=samples,
        direction=direction,
        preset=preset,
        engine=engine,
        bos=bos,
        seed=seed,
    )
    source = data_file("facts.json") if facts is None else facts
    known = read_facts(source)
    kept = _default_run(source, model) if run is None else run
    output.check_writable(kept)
    output.check_apart((kept, *files), (source, subjects), model)
    check_run(kept, over_facts.asked(known, settings, answer_tokens))
    loading = (model, dtype, device, revision, trust_remote_code, device_map, offload_folder)
    loaded = load(*loading)
    output.stderr().print(f"run: {kept}", markup=False, highlight=False, soft_wrap=True)
    spread = None if cluster is None else spreader(cluster, spreading.replica(loaded, *loading))
    with _resumable(kept), spreading.aside(), _watching() as watch:
        found = over_facts.trace_facts(
            loaded,
            known,
            settings,
            kept,
            answer_tokens=answer_tokens,
            limit=limit,
            metric=metric,
            threshold=threshold,
            include_small=include_small,
            spread=spread,
            watch=watch,
        )
    for path in files:
        save_average(found, path)
    if as_json:
        output.emit(found.to_dict())
    else:
        output.stdout().print(average_text(found))
    output.written(*files)


@contextmanager
def _resumable(run: Path) -> Iterator[None]:
    """Say after an interruption that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        said = f"interrupted: the finished facts are kept in {run}, and the same command goes on from there"
        raise typer.Exit(output.complain(said, 1, "")) from interrupt


def _default_run(source: Path, model: str | None) -> Path:
    """In the current folder, named after the facts and the model."""
    from rome_engine.model.embedded import NAME

    return Path(f"{source.stem}-{NAME if model is None else Path(model).resolve().name}.sqlite")


@contextmanager
def _watching() -> Iterator[Watch]:
    """A progress bar for each part of the work, one after the other."""
    labels = {"asking": "asking the model which facts it knows", "tracing": "tracing facts"}
    with ExitStack() as shown:

        def watch(part: str) -> output.Tick:
            shown.close()
            return shown.enter_context(output.progress(labels[part]))

        yield watch
