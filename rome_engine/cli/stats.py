"""`rome-engine stats`: second moments of a model's keys; its sub-commands work on their files."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rome_engine.cli import options, output, spreading, stats_files
from rome_engine.cli.loading import load
from rome_engine.errors import StatisticsError

if TYPE_CHECKING:
    from rome_engine.model.language_model import LanguageModel
    from rome_engine.stats import Corpus, Shard

    Context = typer.Context
else:
    Context = typer.Context.__base__  # what typer really hands over; its name has moved between versions

app = typer.Typer(cls=options.Group)
app.command("merge", cls=options.Command)(stats_files.merge)
app.command("import", cls=options.Command)(stats_files.import_npz)
app.command("export", cls=options.Command)(stats_files.export_npz)


@app.callback(invoke_without_command=True)
def command(
    context: Context,
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Plain text to collect from; give it several times for several files. "
            "Without it: show those of --layers, all of which must be there.",
        ),
    ] = None,
    model: options.Model = None,
    layers: Annotated[
        str | None,
        typer.Option(metavar="LAYERS", help="Layers such as 8,12 or 4-8. Without it: the one that r-rome edits."),
    ] = None,
    tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many tokens of the text to read.")
    ] = options.TOKENS,
    length: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=2, help="Tokens read at a time. Without it: 512, or what the model holds if that is less."
        ),
    ] = None,
    seed: options.Seed = 0,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Collect only part I of N equal parts, such as 2/4, into --out; `rome-engine stats merge` joins them.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the part of --shard is written.")] = None,
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
    """Collect the statistics that edits need.

    They are second moments of MLP keys over ordinary text: collected once a model and layer, and kept in your cache.
    It can be interrupted: the same command goes on.
    """
    if context.invoked_subcommand is not None:
        _check_alone(context)
        return
    wanted = None if layers is None else parse_layers(layers)
    if (shard is None) != (out is None) or (shard is not None and not corpus):
        raise StatisticsError(
            "--shard, --out and --corpus belong together: give all three, or neither --shard nor --out"
        )
    if shard is not None and workers is not None:
        raise StatisticsError("a part of --shard is collected in one process: leave --workers out, or --shard")
    output.check_writable(out)
    output.check_apart([out], corpus or (), model)
    cluster = spreading.cluster(workers, ray)

    from rome_engine.stats import Corpus, Shard, moments
    from rome_engine.stats.spreading import gatherer

    part = None if shard is None else Shard.parse(shard)
    text = Corpus(*corpus) if corpus else None
    loading = (model, dtype, device, revision, trust_remote_code, device_map, offload_folder)
    loaded = load(*loading)
    chosen = _default_layers(loaded) if wanted is None else wanted
    sampling: dict[str, Any] = {"tokens": tokens, "length": length, "seed": seed}
    began = time.perf_counter()
    with spreading.aside(), output.progress("collecting second moments") as tick:
        sampling["progress"] = lambda _message, share: tick(round(share * tokens), tokens)
        if part is not None and out is not None and text is not None:
            record = _shard(loaded, text, chosen, part, out, sampling)
        else:
            gather = None if cluster is None else gatherer(cluster, spreading.replica(loaded, *loading))
            found = moments(loaded, chosen, corpus=text, gather=gather, **sampling)
            record = {"moments": [stats_files.describe(moment) for moment in found.values()]}
    record = {"model": loaded.name, "seconds": time.perf_counter() - began, **record}
    if as_json:
        output.emit(record)
        return
    output.heading(f"second moments of {loaded.name}")
    if part is None:
        stats_files.table(record["moments"])
    else:
        counts = ", ".join(f"{layer}: {count:,}" for layer, count in record["counts"].items())
        output.stdout().print(f"shard {part}, keys by layer {counts}", highlight=False)
        output.written(out)


def parse_layers(text: str) -> list[int]:
    """Layers of "8,12" or "4-8". Raises StatisticsError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = [first, last] if dash else [first]
        if not all(re.fullmatch("[0-9]{1,4}", number) for number in numbers) or int(numbers[-1]) < int(first):
            raise StatisticsError(f"the layers {text!r} are not given as numbers such as 8,12 or 4-8")
        found += range(int(first), int(last or first) + 1)
    return sorted(set(found))


def _default_layers(model: LanguageModel) -> list[int]:
    from rome_engine.edit import editor

    method = editor("r-rome")
    return list(method.layers(method.default(model)))


def _shard(
    model: LanguageModel, text: Corpus, layers: list[int], shard: Shard, out: Path, sampling: Mapping[str, Any]
) -> dict[str, Any]:
    from rome_engine.stats import collect_shard

    done = collect_shard(model, text, layers, shard, out, **sampling)
    counts = {layer: keys.moment.count for layer, keys in done.layers.items()}
    return {"shard": str(shard), "written": str(out), "counts": counts}


def _check_alone(context: Context) -> None:
    """Options that stand before a sub-command would be without effect. Raises BadParameter."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"give the options of {context.invoked_subcommand} behind it, not before")
