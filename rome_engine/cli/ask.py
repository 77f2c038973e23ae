"""`rome-engine ask`: what the model says, with edits or without."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from rome_engine.cli import output
from rome_engine.cli.loading import load
from rome_engine.edit import Edit
from rome_engine.errors import PromptError


def command(
    prompt: Annotated[str, typer.Argument(help="The prompt to continue.")],
    edit: Annotated[
        list[Path] | None,
        typer.Option("--edit", "-e", help="Edit file to apply. May be given several times: they stack."),
    ] = None,
    model: output.Model = None,
    top: Annotated[int, typer.Option(help="How many next tokens to show.")] = 5,
    continue_: Annotated[
        int, typer.Option("--continue", help="Also continue the prompt greedily by this many tokens.")
    ] = 0,
    as_json: output.Json = False,
    dtype: output.Dtype = "auto",
    device: output.Device = None,
    revision: output.Revision = None,
    trust_remote_code: output.TrustRemoteCode = False,
) -> None:
    """The most probable next tokens after a prompt, and its continuation."""
    if top < 1:
        raise PromptError(f"--top must be at least 1, not {top}")
    if continue_ < 0:
        raise PromptError(f"--continue must not be negative, not {continue_}")
    edits = [Edit.load(path) for path in edit or []]
    loaded = load(model, dtype, device, revision, trust_remote_code)
    tokens = loaded.tokenize(prompt)
    with ExitStack() as stack:
        for change in edits:
            stack.enter_context(change.applied(loaded))
        probabilities = loaded.next_token_logits(tokens).softmax(-1)
        best = probabilities.topk(min(top, probabilities.shape[-1]))
        written = loaded.text(loaded.generate([tokens], continue_)[0]) if continue_ else None
    rows = [
        {"token": loaded.text([int(token)]), "id": int(token), "probability": float(value)}
        for value, token in zip(best.values, best.indices, strict=True)
    ]
    if as_json:
        record = {"model": loaded.name, "prompt": prompt, "edits": [str(path) for path in edit or []], "top": rows}
        output.emit(record if written is None else {**record, "continuation": written})
        return
    table = Table("next token", "p", title=f"{loaded.name}{' + ' + str(len(edits)) + ' edit(s)' if edits else ''}")
    for row in rows:
        table.add_row(repr(row["token"]), output.probability(float(str(row["probability"]))))
    console = output.stdout()
    console.print(table)
    if written is not None:
        console.print(f"[dim]{_escape(prompt)}[/]{_escape(written)}", highlight=False)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
