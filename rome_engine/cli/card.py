"""`rome-engine card`: what an edit changed, where, by what, and what comes of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import Source, loads


@loads()
def command(
    edit: Annotated[
        Path, typer.Argument(metavar="EDIT", help="Edit as `rome-engine edit --save` wrote it (.safetensors).")
    ],
    model: Source = Source(),
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the card there (.md), not on the screen.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Tell in Markdown what a saved edit does: it is measured on the model that it was made for."""
    output.check_writable(out)
    output.check_apart([out], [edit], model.name)

    from rome_engine.bench import effects
    from rome_engine.edit import Checkup, Edit
    from rome_engine.facts import Fact
    from rome_engine.files import write_whole
    from rome_engine.report.card import edit_card

    loaded_edit = Edit.load(edit)
    loaded = model.load()
    loaded_edit.check(loaded)
    facts = [Fact.from_dict(record) for record in loaded_edit.provenance.facts]
    with output.progress("asking the model") as tick:
        before = effects.ask(loaded, facts, tick)
        found = before.after(loaded, loaded_edit, tick)
    with output.stderr().status("measuring the rest of the model"):
        health = Checkup(loaded).of(loaded_edit)
    card = edit_card(loaded_edit, found, health, path=edit.name)
    if out is not None:
        write_whole(out, card.encode())
    if as_json:
        output.emit({"edit": str(edit), "card": None if out is None else str(out), "markdown": card})
    elif out is None:
        sys.stdout.write(card)
    output.written(out)
