"""`rome-engine bench`: an editing method measured on a data set, in a run that can be gone on with."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rome_engine.cli import editing, options, output, spreading
from rome_engine.cli.loading import load
from rome_engine.errors import BenchError, StorageError

if TYPE_CHECKING:
    from rome_engine.bench.datasets import DataSet
    from rome_engine.bench.run import Run
    from rome_engine.model.language_model import LanguageModel

_WHAT = "What is run"
_SHOWN = 5


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="SET",
            help="A data set by name, which is downloaded once: counterfact, zsre, mquake, "
            "knowedit-counterfact, ripple-popular, lre …; or own, the facts that are included. Without it: those.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="A data set from a file instead, in any of these schemas."),
    ] = None,
    model: options.Model = None,
    method: Annotated[str, typer.Option(metavar="NAME", rich_help_panel=_WHAT, help="The editing method.")] = "r-rome",
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
            "something for. Without it: those but ge and rs, which take ten times as long.",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_WHAT,
            help="Plain text whose perplexity is measured before, and after each batch that stays in force.",
        ),
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
    ] = 1.0,
    corpus: editing.Corpus = None,
    tokens: editing.Tokens = options.TOKENS,
    workers: spreading.Workers = None,
    ray: spreading.Ray = None,
    as_json: options.Json = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
    device_map: options.DeviceMap = None,
    offload_folder: options.OffloadFolder = None,
) -> None:
    """Measure an editing method on a data set: a resumable run of records, each edited, scored and kept.

    It can be interrupted, or killed, at any moment: the same command goes on, and ends with the same rows.
    """
    from rome_engine.bench.datasets import read
    from rome_engine.bench.metrics import applicable, metrics, named
    from rome_engine.bench.plan import Plan
    from rome_engine.bench.runner import run_benchmark
    from rome_engine.bench.spreading import check_protocol, spreader
    from rome_engine.edit import editor
    from rome_engine.report.run_saving import RUN_SUFFIXES, save_run

    files = output.checked(out, RUN_SUFFIXES)
    output.check_writable(run)
    cluster = spreading.cluster(workers, ray)
    if cluster is not None:
        check_protocol(protocol)
    chosen = editor(method)
    general, about = (None, None) if text is None else _perplexity(text)
    if metric is not None:
        named(one for one in metric if one != "all")
    records = _read(read, name, data)
    wanted = applicable(records.records) if metric is None else tuple(_wanted(metric, tuple(metrics()), records))
    plan = Plan(method, tuple(one.name for one in named(wanted)), protocol, batch, limit, order, seed, about, every)
    path = Path(f"bench-{Path(records.name).stem}-{method}-{protocol}.sqlite") if run is None else run
    _check(path, files, [one for one in (data, text) if one is not None])
    loading = (model, dtype, device, revision, trust_remote_code, device_map, offload_folder)
    loaded = load(*loading)
    config = editing.settings(loaded, method, layer, seed, "warn")
    moments = editing.collected(loaded, chosen.layers(config), corpus, tokens)
    given: Any = {"moments": moments, "config": config, "memory": round(memory * 2**30)}
    with ExitStack() as work:
        work.enter_context(_resumable(path))
        told = work.enter_context(_Bars())
        work.enter_context(_quietly())
        spread = None
        if cluster is not None:
            copies = spreading.replica(loaded, *loading)
            work.enter_context(spreading.aside())
            spread = work.enter_context(spreader(cluster, copies, loaded, plan, **given))
        found = run_benchmark(loaded, plan, records, path, general=general, spread=spread, told=told, **given)
    for file in files:
        save_run(found, file)
    if as_json:
        output.emit(_record(found, records))
    else:
        _show(found, records)
    output.written(path, *files)


def _check(run: Path, files: list[Path], sources: list[Path]) -> None:
    """Say before any work that a run cannot be kept in its file, or that one file would be written over another.

    Raises StorageError, InUseError.
    """
    from rome_engine.bench.run_file import RunFile

    taken = {source.resolve() for source in sources}
    for path in (run, *files):
        if path.resolve() in taken:
            raise StorageError(f"cannot write {path}: this command reads it or writes it already; give another name")
        taken.add(path.resolve())
    output.check_writable(run)
    if run.exists():
        RunFile(run).close()


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


def _read(read: Callable[..., DataSet], name: str | None, data: Path | None) -> DataSet:
    """The data set, with progress where it is fetched."""
    with ExitStack() as bars:
        ticks: dict[str, output.Tick] = {}

        def told(file: str, done: int, total: int | None) -> None:
            if file not in ticks:
                ticks[file] = bars.enter_context(output.progress(f"fetching {file}"))
            ticks[file](done, total or done)

        return read(name, data, told)


def _wanted(given: list[str], known: tuple[str, ...], data: DataSet) -> list[str]:
    """The metrics that were asked for. Raises BenchError for one that the records have nothing for."""
    from rome_engine.bench.metrics import named

    there = {metric.name for metric in named(known) if any(any(True for _ in metric.asks(one)) for one in data.records)}
    found: list[str] = []
    for one in given:
        if one == "all":
            found += [name for name in known if name in there]
            continue
        (metric,) = named([one])
        if metric.name not in there:
            raise BenchError(
                f"{data.name} has nothing that {metric.name} could measure: it has {', '.join(sorted(there))}"
            )
        found.append(metric.name)
    return list(dict.fromkeys(found))


def _perplexity(path: Path) -> tuple[Callable[[LanguageModel], Mapping[str, float]], str]:
    """What measures a file's perplexity, and the content's sha256. Raises StorageError for one that cannot be read."""
    from rome_engine.bench.general import perplexity

    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read the text {path}: {error} (plain UTF-8 is wanted)") from error
    digest = hashlib.sha256(content.encode()).hexdigest()
    return lambda model: {"perplexity": perplexity(model, content).value}, digest


class _Bars:
    """A progress bar for each phase, one after another."""

    def __enter__(self) -> Callable[[str, int, int], None]:
        self._open = ExitStack()
        self._label = ""
        return self._tell

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _tell(self, label: str, done: int, of: int) -> None:
        if label != self._label:
            self._open.close()
            self._open, self._label = ExitStack(), label
            self._tick = self._open.enter_context(output.progress(label))
        self._tick(done, of)


def _record(run: Run, data: DataSet) -> dict[str, Any]:
    from rome_engine.bench.comparison import compare

    return {
        "run": str(run.path),
        "data": {"name": data.name, "records": len(data.records), "malformed": [vars(one) for one in data.malformed]},
        **compare([run]).to_dict(),
    }


def _show(run: Run, data: DataSet) -> None:
    from rome_engine.bench.comparison import compare
    from rome_engine.report.comparison_text import comparison_text

    output.stdout().print(comparison_text(compare([run])))
    for one in data.malformed[:_SHOWN]:
        output.stderr().print(f"left out: {one.place}: {one.reason}", markup=False, highlight=False, soft_wrap=True)
    if len(data.malformed) > _SHOWN:
        output.stderr().print(f"left out: {len(data.malformed) - _SHOWN} more", highlight=False)
