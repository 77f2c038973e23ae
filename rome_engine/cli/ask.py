"""`rome-engine ask`: what the model says, with edits or without."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import Source, loads


@loads()
def command(
    prompt: options.Prompt,
    edit: Annotated[
        list[Path] | None,
        typer.Option(
            "--edit",
            "-e",
            metavar="FILE",
            help="Edit to apply first, as `rome-engine edit --save` wrote it. Give it several times for several edits.",
        ),
    ] = None,
    model: Source = Source(),
    top: Annotated[int, typer.Option(metavar="N", min=1, help="How many of the likeliest next tokens to show.")] = 5,
    continue_: Annotated[
        int,
        typer.Option(
            "--continue", metavar="N", min=0, help="Let the model also write on, by at most this many tokens."
        ),
    ] = 0,
    as_json: options.Json = False,
) -> None:
    """Show what a model says next, with edits or without."""
    output.check_text(prompt)

    from rich.table import Table
    from rich.text import Text

    from rome_engine.edit import Edit

    edits = [Edit.load(path) for path in edit or []]
    loaded = model.load()
    tokens = loaded.tokenize(prompt)
    with ExitStack() as stack:
        for change in edits:
            stack.enter_context(change.applied(loaded))
        probabilities = loaded.next_token_logits(tokens).softmax(-1)
        best = probabilities.topk(min(top, probabilities.shape[-1]))
        written = loaded.text(loaded.generate([tokens], continue_)[0]) if continue_ else None
    rows = [
        (loaded.text([token]), token, value)
        for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    if as_json:
        shown = [{"token": text, "id": token, "probability": value} for text, token, value in rows]
        record = {"model": loaded.name, "prompt": prompt, "edits": [str(path) for path in edit or []], "top": shown}
        output.emit(record if written is None else {**record, "continuation": written})
        return
    count = f" with {len(edits)} edit{'s' if len(edits) > 1 else ''}" if edits else ""
    output.heading(f"{loaded.name}{count}")
    table = Table("next token", "probability")
    for text, _, value in rows:
        table.add_row(Text(repr(text)), output.probability(value))
    console = output.stdout()
    console.print(table)
    if written is not None:
        console.print(Text.assemble((prompt, "dim"), written))
