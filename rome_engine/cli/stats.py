"""`rome-engine stats`: second moments of a model's keys."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rome_engine.cli import output
from rome_engine.cli.loading import load
from rome_engine.edit import editor
from rome_engine.errors import StatisticsError
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import Corpus, SecondMoment, moments
from rome_engine.stats.provenance import DEFAULT_TOKENS


def command(
    corpus: Annotated[
        list[Path] | None,
        typer.Option(help="Text file to collect from. May be given several times. Without: show what is there."),
    ] = None,
    model: output.Model = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers such as 8,12 or 4-8; the default edit's where left out.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="How many tokens to read.")] = DEFAULT_TOKENS,
    length: Annotated[
        int | None, typer.Option(help="Tokens of one sequence; 512, or the context where that is shorter.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample of the corpus.")] = 0,
    as_json: output.Json = False,
    dtype: output.Dtype = "auto",
    device: output.Device = None,
    revision: output.Revision = None,
    trust_remote_code: output.TrustRemoteCode = False,
) -> None:
    """Collect the second moments that edits need, in one pass for all layers, or show those that are there."""
    text = Corpus(*corpus) if corpus else None
    wanted = None if layers is None else parse_layers(layers)
    loaded = load(model, dtype, device, revision, trust_remote_code)
    chosen = _default_layers(loaded) if wanted is None else wanted
    began = time.perf_counter()
    with output.progress("collecting second moments") as tick:
        found = moments(
            loaded,
            chosen,
            corpus=text,
            tokens=tokens,
            length=length,
            seed=seed,
            progress=lambda _message, share: tick(round(share * tokens), tokens),
        )
    seconds = time.perf_counter() - began
    rows = [_describe(layer, moment) for layer, moment in found.items()]
    if as_json:
        output.emit({"model": loaded.name, "seconds": seconds, "moments": rows})
        return
    table = Table("layer", "keys", "size", "corpus", "position 0", title=f"second moments of {loaded.name}")
    for row in rows:
        left_out = {True: "left out", False: "kept", None: "unknown"}[row["first_token_left_out"]]
        table.add_row(str(row["layer"]), f"{row['count']:,}", str(row["size"]), str(row["corpus"]), left_out)
    output.stdout().print(table)


def parse_layers(text: str) -> list[int]:
    """Layers of "8,12" or "4-8". Raises StatisticsError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or (dash and int(last) < int(first)):
            raise StatisticsError(f"the layers {text!r} are not given as numbers such as 8,12 or 4-8")
        found += range(int(first), int(last or first) + 1)
    return sorted(set(found))


def _default_layers(model: LanguageModel) -> list[int]:
    method = editor("r-rome")
    return list(method.layers(method.default(model)))


def _describe(layer: int, moment: SecondMoment) -> dict[str, Any]:
    about = moment.provenance
    return {
        "layer": layer,
        "count": moment.count,
        "size": moment.d,
        "key": None if about is None else about.key,
        "corpus": None if about is None else about.corpus_name,
        "first_token_left_out": None if about is None else about.first_token_left_out,
        "provenance": None if about is None else about.to_dict(),
    }
