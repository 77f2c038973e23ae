"""`rome-engine lens`: what a model would say after each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import Source, loads
from rome_engine.errors import PromptError


@loads(split=True)
def command(
    prompt: options.Prompt,
    answer: Annotated[
        list[str] | None,
        typer.Option(
            "--answer",
            "-a",
            metavar="TEXT",
            help="An answer whose first token is followed through the layers. Give it several times for several "
            "answers. Without it: what the model itself says next.",
        ),
    ] = None,
    model: Source = Source(),
    top: Annotated[int, typer.Option(metavar="N", min=1, help="How many of the likeliest tokens to keep.")] = 5,
    token: Annotated[
        int | None,
        typer.Option(
            "--token",
            metavar="N",
            help="Show one token with its likeliest next tokens in the place of the grid: 0 is the first, -1 the last.",
        ),
    ] = None,
    bos: options.Bos = "never",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write: .html (interactive), .json, .csv or .parquet."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show what a model would say after each layer (the logit lens).

    The state after every layer is read as if it were the last one: a grid of layers and tokens with the likeliest next
    token in each cell, and the rank of the answer layer by layer.
    """
    output.check_text(prompt)
    for text in answer or []:
        output.check_answer(text)

    from rome_engine.report.lens_table import lens_table
    from rome_engine.report.results import LENS_SUFFIXES, save_lens
    from rome_engine.trace.lens import lens

    files = output.checked([] if out is None else [out], LENS_SUFFIXES, model.name)
    loaded = model.load()
    count = len(loaded.tokenize(prompt, bos=bos).input_ids)
    if token is not None and not -count <= token < count:
        raise PromptError(f"there is no token {token}: the prompt has {count}, 0 to {count - 1}")
    with output.progress("reading the layers") as tick:
        found = lens(loaded, prompt, answers=answer or (), top=top, bos=bos, progress=tick)
    for path in files:
        save_lens(found, path)
    if as_json:
        output.emit(found.to_dict())
    else:
        output.stdout().print(lens_table(found, token))
    output.written(*files)
