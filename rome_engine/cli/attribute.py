"""`rome-engine attribute`: which parts of a model write the answer."""

from __future__ import annotations

from typing import Annotated

import typer

from rome_engine.cli import options, output, tracing
from rome_engine.cli.loading import Source, loads


@loads(split=True)
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
    model: Source = Source(),
    top: Annotated[int, typer.Option(metavar="N", min=1, help="How many of the largest contributions to show.")] = 20,
    bos: options.Bos = "never",
    out: tracing.Outputs = None,
    as_json: options.Json = False,
) -> None:
    """Show what every part of a model adds to the answer's logit (direct logit attribution).

    The logit at the prompt's end is split into what the embedding, each attention layer or head, each MLP and the
    biases add to it. The parts sum to the model's own logit.
    """
    tracing.check_question(prompt, None, answer, foil)

    from rome_engine.report.attribution_table import attribution_table
    from rome_engine.report.results import ATTRIBUTION_SUFFIXES, save_attribution
    from rome_engine.trace.attribution import attribute

    files = output.checked(out, ATTRIBUTION_SUFFIXES, model.name)
    loaded = model.load()
    found = attribute(loaded, prompt, answer=answer, foil=foil, heads=heads, bos=bos)
    for path in files:
        save_attribution(found, path)
    if as_json:
        output.emit(found.to_dict())
    else:
        output.stdout().print(attribution_table(found, top))
    output.written(*files)
