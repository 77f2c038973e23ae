"""`rome-engine ledger`: edits made one after another, kept in a folder, taken out or moved as if never made so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rome_engine.cli import editing, options, output
from rome_engine.cli.loading import Source, loads
from rome_engine.errors import EditError

if TYPE_CHECKING:
    from rome_engine.edit.ledger import Ledger
    from rome_engine.facts import Fact
    from rome_engine.model.language_model import LanguageModel

app = typer.Typer(cls=options.Group, help="Edit in batches, and keep, take out or move every one of them.")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the ledger is kept.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The edit's name, as `ledger list` shows it.")]
KeepValues = Annotated[
    bool,
    typer.Option(
        "--keep-values",
        metavar=options.FLAG,
        help="Keep the values that were searched for the edits behind it, which is quick. Without it they are searched "
        "again, and all is exactly as if the edit had never been where it was.",
    ),
]


@app.command("add", cls=options.Command)
@loads()
def add(
    folder: Folder,
    facts: Annotated[Path, typer.Argument(metavar="FILE", help="Facts with their new targets, as for edit-facts.")],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the edits. Without it: that of the file.")
    ] = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="Method of a new ledger.")] = "memit-history",
    batch: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Facts an edit. Without it: all of the file in one.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Take only the first N facts.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", metavar=options.FLAG, help="Leave out records that cannot be used.")
    ] = False,
    layer: editing.Layer = None,
    seed: options.Seed = 0,
    corpus: editing.Corpus = None,
    tokens: editing.Tokens = options.TOKENS,
    model: Source = Source(),
    as_json: options.Json = False,
) -> None:
    """Edit facts on top of what the ledger holds, in batches; a new ledger is made where there is none.

    Each edit is on the disk when it is done: a run that is killed loses the one it was at, and the same command goes on
    behind the last one.
    """
    output.check_apart([folder], [facts, corpus], model.name)

    from rome_engine.fact_files import check_usable, editable, read_facts

    file = editable(read_facts(facts))
    if not skip_bad:
        check_usable(file, "correct them, or give --skip-bad to leave them out")
    chosen = [fact for _, fact in file.facts][:limit]
    if not chosen:
        raise EditError(f"{file.name} has no facts that can be edited")
    batches = _batches(name or facts.stem, chosen, batch or len(chosen))
    loaded = model.load()
    with _opened(folder, loaded, corpus, tokens, method, layer, seed) as ledger:
        kept = {entry.name: entry for entry in ledger.entries}
        for label, part in batches.items():
            if label in kept and kept[label].targets.facts != tuple(part):
                raise EditError(f"the ledger has an edit {label!r} of other facts already: give another --name")
        with output.progress("editing") as tick:
            for done, (label, part) in enumerate(batches.items()):
                tick(done, len(batches))
                if label not in kept:
                    ledger.add(label, part)
        _report(ledger, folder, as_json)


@app.command("list", cls=options.Command)
def show(folder: Folder, as_json: options.Json = False) -> None:
    """Show a ledger's edits in their order."""
    from rome_engine.edit.edit import Edit
    from rome_engine.edit.ledger_folder import read_page

    page = read_page(folder)
    rows = [(name, Edit.load(folder / f"{file}.safetensors")) for name, file in page.files]
    _print(folder, page.method, rows, as_json)


@app.command("remove", cls=options.Command)
@loads()
def remove(
    folder: Folder,
    name: Name,
    keep_values: KeepValues = False,
    model: Source = Source(),
    as_json: options.Json = False,
) -> None:
    """Take an edit out, and solve those behind it again: all is then as if it had never been made."""
    loaded = model.load()
    with _opened(folder, loaded) as ledger:
        with output.progress("solving again") as tick:
            ledger.remove(name, search=not keep_values, progress=lambda step, steps, _loss: tick(step, steps))
        _report(ledger, folder, as_json)


@app.command("move", cls=options.Command)
@loads()
def move(
    folder: Folder,
    name: Name,
    place: Annotated[int, typer.Argument(metavar="PLACE", min=0, help="The place it shall have, 0 the first.")],
    keep_values: KeepValues = False,
    model: Source = Source(),
    as_json: options.Json = False,
) -> None:
    """Put an edit at another place in the order: all is then as if it had been made there."""
    loaded = model.load()
    with _opened(folder, loaded) as ledger:
        with output.progress("solving again") as tick:
            ledger.move(name, place, search=not keep_values, progress=lambda step, steps, _loss: tick(step, steps))
        _report(ledger, folder, as_json)


@app.command("export", cls=options.Command)
@loads()
def export(
    folder: Folder,
    merged: Annotated[Path, typer.Argument(metavar="TO", help="A new folder for the edited model.")],
    model: Source = Source(),
) -> None:
    """Write the model with all of a ledger's edits, for plain transformers."""
    output.check_free(merged)
    output.check_apart([merged], model=model.name)
    from rome_engine.edit.export import save_model

    loaded = model.load()
    with _opened(folder, loaded), output.stderr().status("writing the edited model"):
        save_model(loaded, merged)
    output.written(merged)


@contextmanager
def _opened(
    folder: Path,
    model: LanguageModel,
    corpus: Path | None = None,
    tokens: int = options.TOKENS,
    method: str = "",
    layer: int | None = None,
    seed: int = 0,
) -> Iterator[Ledger]:
    """The ledger, made where there is none and a method is named; with progress."""
    from rome_engine.edit import editor
    from rome_engine.edit.ledger import Ledger
    from rome_engine.edit.ledger_folder import PAGE, read_page

    if method and not (folder / PAGE).exists():
        config = editing.settings(model, method, layer, seed, "warn")
        moments = editing.collected(model, editor(method).layers(config), corpus, tokens)
        with Ledger(model, method, moments, config, folder) as ledger:
            yield ledger
        return
    page = read_page(folder)
    moments = editing.collected(model, [int(at) for at in page.moments], corpus, tokens)
    with output.stderr().status("applying the ledger's edits"):
        ledger = Ledger.open(folder, model, moments)
    with ledger:
        yield ledger


def _batches(name: str, facts: Sequence[Fact], size: int) -> dict[str, Sequence[Fact]]:
    parts = [facts[begin : begin + size] for begin in range(0, len(facts), size)]
    if len(parts) == 1:
        return {name: parts[0]}
    return {f"{name}-{number:04d}": part for number, part in enumerate(parts, 1)}


def _report(ledger: Ledger, folder: Path, as_json: bool) -> None:
    _print(folder, ledger.method, [(entry.name, entry.edit) for entry in ledger.entries], as_json)


def _print(folder: Path, method: str, rows: Sequence[tuple[str, Any]], as_json: bool) -> None:
    described = [
        {
            "name": name,
            "facts": len(edit.provenance.facts),
            "layers": sorted(edit.layers),
            "delta_norm": [edit.layers[at].delta_norm for at in sorted(edit.layers)],
            "seconds": sum(edit.provenance.seconds.values()),
        }
        for name, edit in rows
    ]
    if as_json:
        output.emit({"ledger": str(folder), "method": method, "edits": described})
        return
    from rich.table import Table
    from rich.text import Text

    output.heading(f"{folder}: {len(rows)} edits by {method}")
    table = Table("", "edit", "facts", "layers", "‖Δ‖")
    for place, one in enumerate(described):
        norms = ", ".join(f"{norm:.2f}" for norm in one["delta_norm"])
        table.add_row(str(place), Text(one["name"]), str(one["facts"]), ", ".join(map(str, one["layers"])), norms)
    output.stdout().print(table)
