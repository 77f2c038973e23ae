"""`rome-engine stats`: second moments of a model's keys."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import load
from rome_engine.errors import StatisticsError

if TYPE_CHECKING:
    from rome_engine.model.language_model import LanguageModel
    from rome_engine.stats import SecondMoment

LEFT_OUT = {True: "left out", False: "kept", None: "unknown"}


def command(
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Plain text to collect from; give it several times for several files. "
            "Without it: show the second moments that are there.",
        ),
    ] = None,
    model: options.Model = None,
    layers: Annotated[
        str | None,
        typer.Option(metavar="LAYERS", help="Layers such as 8,12 or 4-8. Without it: the one that edits change."),
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
    as_json: options.Json = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Collect the statistics that edits need.

    They are second moments of MLP keys over ordinary text: collected once a model and layer, and kept in your cache.
    """
    wanted = None if layers is None else parse_layers(layers)

    from rich.table import Table
    from rich.text import Text

    from rome_engine.stats import Corpus, moments

    text = Corpus(*corpus) if corpus else None
    loaded = load(model, dtype, device, revision, trust_remote_code)
    began = time.perf_counter()
    with output.progress("collecting second moments") as tick:
        found = moments(
            loaded,
            _default_layers(loaded) if wanted is None else wanted,
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
    output.heading(f"second moments of {loaded.name}")
    table = Table("layer", "keys", "size", "corpus", "position 0")
    for row in rows:
        left_out = LEFT_OUT[row["first_token_left_out"]]
        table.add_row(str(row["layer"]), f"{row['count']:,}", str(row["size"]), Text(str(row["corpus"])), left_out)
    output.stdout().print(table)


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
