"""`rome-engine ledger`: edits made one after another, kept in a folder, taken out or moved as if never made so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rome_engine.cli import editing, options, output
from rome_engine.cli.loading import Source, loads
from rome_engine.errors import EditError, RomeEngineError

if TYPE_CHECKING:
    from rome_engine.edit.edit import Edit
    from rome_engine.edit.ledger import Ledger
    from rome_engine.edit.ledger_folder import Page
    from rome_engine.facts import Fact
    from rome_engine.model.language_model import LanguageModel
    from rome_engine.stats import SecondMoment

app = typer.Typer(cls=options.Group, help="Edit in batches, and keep, take out or move every one of them.")

METHOD = "memit-history"
_REMEDY = "correct them, or give --skip-bad to leave them out"
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

Guard = Annotated[
    editing.Guarding,
    typer.Option(
        metavar="NAME",
        rich_help_panel=editing.GUARDS,
        help="What happens where the ledger's edits, all measured together when the last of this call is done, damage "
        "the model (a text's perplexity rises, known answers are lost). rollback: those of this call are taken out "
        "again; refuse: that too, and no edit is made whose numbers alone are suspicious; warn: it is said and they "
        "stay; off: nothing is measured.",
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
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Method of a new ledger: {editing.ONE_FACT}, {editing.MANY_FACTS}. Without it: {METHOD}.",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Facts an edit. Without it: all of the file in one.")
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Take only the first N facts.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", metavar=options.FLAG, help="Leave out records that cannot be used.")
    ] = False,
    layer: editing.Layer = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", callback=options.checked_seed, help="Seed of what a new ledger draws at random. Without it: 0."
        ),
    ] = None,
    corpus: editing.Corpus = None,
    tokens: editing.Tokens = options.TOKENS,
    guard: Guard = "rollback",
    model: Source = Source(),
    as_json: options.Json = False,
) -> None:
    """Edit facts on top of what the ledger holds, in batches; a new ledger is made where there is none.

    Each edit is on the disk when it is done: a run that is killed loses the one it was at, and the same command goes on
    behind the last one.
    """
    output.check_apart([folder], [facts, corpus], model.name)

    from rome_engine.bench.effects import unaskable
    from rome_engine.edit.ledger import Ledger, closed_form
    from rome_engine.edit.ledger_folder import PAGE, read_page
    from rome_engine.fact_files import check_usable, editable, read_facts, without
    from rome_engine.stats import Corpus

    page = read_page(folder) if (folder / PAGE).exists() else None
    if page is not None:
        _check_same(folder, page, method, layer, seed)
    made_by = page.method if page is not None else method or METHOD
    if corpus is not None:
        Corpus(corpus)  # a mistake in it is said before the model is loaded
    file = editable(read_facts(facts))
    if not skip_bad:
        check_usable(file, _REMEDY)
    if closed_form(made_by).one_fact and batch != 1 and len(file.facts[:limit]) > 1:
        raise EditError(f"{made_by} rewrites one fact at a time: give --batch 1")
    loaded = model.load()
    file = without(file, unaskable(loaded, [fact for _, fact in file.facts]))
    if not skip_bad:
        check_usable(file, _REMEDY)
    chosen = [fact for _, fact in file.facts][:limit]
    if not chosen:
        raise EditError(f"{file.name} has no facts that can be edited")
    batches = _batches(name or facts.stem, chosen, batch or len(chosen))
    there = {} if page is None else dict(page.files)
    # Before any edit is in force: what many calls did adds up.
    checkup = editing.checkup(loaded, guard) if any(label not in there for label in batches) else None
    if page is None:
        config = editing.settings(loaded, made_by, layer, seed or 0, guard)
        moments = editing.collected(loaded, closed_form(made_by).layers(config), corpus, tokens)
        opened = Ledger(loaded, made_by, moments, config, folder)
    else:
        opened = _opened(folder, loaded, None if corpus is None else _collected(page, loaded, corpus, tokens), guard)
    with _kept(folder) as added, opened as ledger:
        new = _missing(ledger, batches)
        before = len(ledger)
        with output.progress("editing") as tick:
            for done, (label, part) in enumerate(new.items(), len(batches) - len(new)):
                tick(done, len(batches))
                added.append(ledger.add(label, part))
        try:
            health = editing.checked_now(checkup, [entry.edit for entry in ledger.entries], guard)
        except RomeEngineError:
            ledger.truncate(before)
            added.clear()
            raise
        _report(ledger, folder, as_json, health=None if health is None else health.to_dict())
        if not as_json:
            editing.show_health(health)


@app.command("list", cls=options.Command)
def show(folder: Folder, as_json: options.Json = False) -> None:
    """Show a ledger's edits in their order."""
    from rome_engine.edit.ledger_folder import read_page

    _print(folder, read_page(folder).method, _saved(folder), as_json)


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
    to: Annotated[Path, typer.Argument(metavar="TO", help="A new folder, or for the form edit a file (.safetensors).")],
    model: Source = Source(),
    form: Annotated[
        Literal["merged", "adapter", "edit"],
        typer.Option(
            metavar="NAME",
            help="merged: the edited model, for plain transformers. adapter: a LoRA adapter, for the library peft. "
            "edit: one file, for `ask --edit`.",
        ),
    ] = "merged",
    as_json: options.Json = False,
) -> None:
    """Write all of a ledger's edits as one: a model, an adapter or an edit file."""
    if form == "edit":
        output.check_writable(to)
    else:
        output.check_free(to)
    output.check_apart([to], model=model.name)

    from transformers.utils.logging import disable_progress_bar

    from rome_engine.bench import effects
    from rome_engine.edit import Checkup, save_adapter
    from rome_engine.edit.combined import combined
    from rome_engine.edit.export import save_model
    from rome_engine.facts import Fact
    from rome_engine.report.card import edit_card

    edits = [edit for _, edit in _saved(folder)]
    whole = combined(edits)
    facts = [Fact.from_dict(fact) for edit in edits for fact in edit.provenance.facts]
    loaded = model.load()
    with output.progress("asking the model") as tick:
        before = effects.ask(loaded, facts, tick)
    with output.stderr().status("measuring the model"):
        checkup = Checkup(loaded)
    with _opened(folder, loaded):
        with output.progress("asking the edited model") as tick:
            after = before.now(loaded, tick)
        card = edit_card(whole, after, checkup.now(*edits), form, ".")
        if form == "merged":
            with output.stderr().status("writing the edited model"):
                disable_progress_bar()  # transformers' own, one line of noise a file
                save_model(loaded, to, card=card)
    if form == "adapter":
        save_adapter(loaded, whole, to, card=card)
    elif form == "edit":
        whole.save(to)
    output.written(to)
    if as_json:
        output.emit({"ledger": str(folder), "form": form, "written": str(to), "edits": len(edits)})


def _check_same(folder: Path, page: Page, method: str | None, layer: int | None, seed: int | None) -> None:
    """Raises EditError for an option that is not as the ledger was made."""
    made = {"method": page.method, "layer": max(page.moments, default=None), "seed": page.config.get("seed")}
    for name, given in (("method", method), ("layer", layer), ("seed", seed)):
        if given not in (None, made[name]):
            raise EditError(
                f"the ledger {folder} was made with the {name} {made[name]}, not {given}: leave --{name} out, or name "
                "another folder"
            )


def _collected(page: Page, model: LanguageModel, corpus: Path, tokens: int) -> dict[int, SecondMoment]:
    """The second moments that the ledger was made with; those that are gone are collected again.

    Raises EditError where it was made with those of another text, WrongWeightsError.
    """
    from rome_engine.stats import Corpus, wanted_keys

    page.check_base(model, model.weight_hash())
    if wanted_keys(model, page.moments, Corpus(corpus), tokens=tokens) != page.moments:
        raise EditError(
            f"the ledger was not made with the statistics of {tokens} tokens of {corpus}: leave --corpus out, or give "
            "--corpus and --tokens of then"
        )
    return editing.collected(model, list(page.moments), corpus, tokens)


def _opened(
    folder: Path,
    model: LanguageModel,
    moments: Mapping[int, SecondMoment] | None = None,
    guard: editing.Guarding = "warn",
) -> Ledger:
    from rome_engine.edit.ledger import Ledger

    with output.stderr().status("applying the ledger's edits"):
        ledger = Ledger.open(folder, model, moments)
    ledger.config = editing.guarded(ledger.config, guard)
    return ledger


@contextmanager
def _kept(folder: Path) -> Iterator[list[Edit]]:
    """A list for the edits that are on the disk; says after an interruption or a failure that they stay there."""
    added: list[Edit] = []
    try:
        yield added
    except RomeEngineError:
        if added:
            output.stderr().print(f"what was added before ({len(added)}) is kept in {folder}", highlight=False)
        raise
    except KeyboardInterrupt as interrupt:
        if not added:
            raise
        said = f"interrupted: the finished edits are kept in {folder}, and the same command goes on behind them"
        raise typer.Exit(output.complain(said, 1, "")) from interrupt


def _missing(ledger: Ledger, batches: Mapping[str, Sequence[Fact]]) -> dict[str, Sequence[Fact]]:
    """The batches that the ledger has not. Raises EditError for a name of other facts."""
    kept = {entry.name: entry.targets.facts for entry in ledger.entries}
    for label, part in batches.items():
        if kept.get(label, tuple(part)) != tuple(part):
            raise EditError(f"the ledger has an edit {label!r} of other facts already: give another --name")
    return {label: part for label, part in batches.items() if label not in kept}


def _saved(folder: Path) -> list[tuple[str, Edit]]:
    """The edits in their order, by name."""
    from rome_engine.edit.edit import Edit
    from rome_engine.edit.ledger_folder import read_page

    return [(name, Edit.load(folder / f"{file}.safetensors")) for name, file in read_page(folder).files]


def _batches(name: str, facts: Sequence[Fact], size: int) -> dict[str, Sequence[Fact]]:
    parts = [facts[begin : begin + size] for begin in range(0, len(facts), size)]
    if len(parts) == 1:
        return {name: parts[0]}
    return {f"{name}-{number:04d}": part for number, part in enumerate(parts, 1)}


def _report(ledger: Ledger, folder: Path, as_json: bool, **more: Any) -> None:
    _print(folder, ledger.method, [(entry.name, entry.edit) for entry in ledger.entries], as_json, **more)


def _print(folder: Path, method: str, rows: Sequence[tuple[str, Any]], as_json: bool, **more: Any) -> None:
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
        output.emit({"ledger": str(folder), "method": method, "edits": described, **more})
        return
    from rich.table import Table
    from rich.text import Text

    output.heading(f"{folder}: {len(rows)} edits by {method}")
    table = Table("", "edit", "facts", "layers", "‖Δ‖")
    for place, one in enumerate(described):
        norms = ", ".join(f"{norm:.2f}" for norm in one["delta_norm"])
        table.add_row(str(place), Text(one["name"]), str(one["facts"]), ", ".join(map(str, one["layers"])), norms)
    output.stdout().print(table)
