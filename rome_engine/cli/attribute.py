"""`rome-engine attribute`: which parts of a model write the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import load
from rome_engine.errors import TargetError


def command(
    prompt: options.Prompt,
    answer: Annotated[
        str | None,
        typer.Option(
            "--answer",
            "-a",
            metavar="TEXT",
            help="The answer, whose first token counts. Without it: what the model itself says next.",
        ),
    ] = None,
    foil: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Another answer: show what favours the first one over it."),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", metavar=options.FLAG, help="Show every attention head apart.")
    ] = False,
    model: options.Model = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="How many of the largest contributions to show.")] = 20,
    bos: options.Bos = "never",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write: .json, .csv or .parquet.")] = None,
    as_json: options.Json = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Show what every part of a model adds to the answer's logit (direct logit attribution).

    The logit at the prompt's end is split into what the embedding, each attention layer or head, each MLP and the
    biases add to it. The parts sum to the model's own logit.
    """
    output.check_text(prompt)
    for text in (answer, foil):
        if text is not None:
            output.check_answer(text)
    if answer is not None and foil is not None and answer.strip() == foil.strip():
        raise TargetError(f"the foil {foil!r} is the answer: name another one")
    output.check_writable(out)

    from rome_engine.files import suffix_among
    from rome_engine.report.attribution_table import attribution_table
    from rome_engine.report.results import TABLE_SUFFIXES, save_attribution
    from rome_engine.trace.attribution import attribute

    if out is not None:
        suffix_among(out, TABLE_SUFFIXES)
    loaded = load(model, dtype, device, revision, trust_remote_code)
    found = attribute(loaded, prompt, answer=answer, foil=foil, heads=heads, bos=bos)
    if out is not None:
        save_attribution(found, out)
    if as_json:
        output.emit(found.to_dict())
    else:
        output.stdout().print(attribution_table(found, top))
    output.written(out)
