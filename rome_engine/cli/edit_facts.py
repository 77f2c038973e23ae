"""`rome-engine edit-facts`: rewrite the facts of a file in one edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rome_engine.cli import editing, options, output
from rome_engine.cli.loading import Source, loads

if TYPE_CHECKING:
    from rome_engine.bench.effects import Asking, Effect
    from rome_engine.fact_files import FactFile
    from rome_engine.model.language_model import LanguageModel

_REMEDY = "correct them, or give --skip-bad to leave them out"


@loads()
def command(
    facts: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Facts with their new targets: a JSON list, one JSON object a line (.jsonl) or a table (.csv); this "
            "program's own (prompt, subject, target_new), CounterFact's or zsRE's.",
        ),
    ],
    model: Source = Source(),
    method: Annotated[
        str, typer.Option(metavar="NAME", help=f"One that takes many facts: {editing.MANY_FACTS}, {editing.TRAINED}.")
    ] = "memit",
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Rewrite only the first N facts that can be used.")
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad",
            metavar=options.FLAG,
            help="Leave out records that cannot be used (malformed, contradictory, repeated, answered so already).",
        ),
    ] = False,
    layer: editing.Layer = None,
    seed: options.Seed = 0,
    corpus: editing.Corpus = None,
    tokens: editing.Tokens = options.TOKENS,
    save: editing.Save = None,
    merged: editing.Merged = None,
    adapter: editing.Adapter = None,
    card: editing.Card = None,
    guard: editing.Guard = "rollback",
    as_json: options.Json = False,
) -> None:
    """Rewrite many facts at once: make the model answer each prompt with its new target."""
    outputs = editing.Outputs(save, merged, adapter, card)
    outputs.check(model.name, facts, corpus)

    from rome_engine.edit import editor
    from rome_engine.errors import PromptError
    from rome_engine.fact_files import check_usable, editable, read_facts
    from rome_engine.report.card import edit_card
    from rome_engine.stats import Corpus

    editor(method)  # a mistake in it, or in the next line, is said before the model is loaded
    if corpus is not None:
        Corpus(corpus)
    file = editable(read_facts(facts))
    if not skip_bad:
        check_usable(file, _REMEDY)
    records = file.records  # before --limit
    loaded = model.load()
    config = editing.settings(loaded, method, layer, seed, guard)
    file, before = _asked(loaded, file, limit)
    if not skip_bad:
        check_usable(file, _REMEDY)
    if not file.facts:
        raise PromptError(f"none of the {records} records of {file.name} can be used: {file.malformed[0].reason}")
    checkup = editing.checkup(loaded, guard)
    edit = editing.make(loaded, before.facts, method, config, corpus, tokens)
    health = editing.checked(checkup, edit, guard)
    with output.progress("asking the edited model") as tick:
        effects = before.after(loaded, edit, tick)
    record = _describe(file, records, effects) | {
        "model": loaded.name,
        "method": method,
        "layers": sorted(edit.layers),
        "rank": edit.rank,
        "delta_norm": [edit.layers[at].delta_norm for at in sorted(edit.layers)],
        "weight_norm": [edit.layers[at].weight_norm for at in sorted(edit.layers)],
        "health": None if health is None else health.to_dict(),
        "seconds": dict(edit.provenance.seconds),
        "provenance": edit.provenance.to_dict(),
    }
    record |= outputs.write(loaded, edit, partial(edit_card, edit, effects, health))
    if as_json:
        output.emit(record)
    else:
        _show(record)
        editing.show_health(health)
        editing.show_written(record)


def _asked(model: LanguageModel, file: FactFile, limit: int | None) -> tuple[FactFile, Asking]:
    """The facts that this model can be edited to, asked as it is; those it cannot are among the malformed ones."""
    from rome_engine.bench import effects
    from rome_engine.edit.targets import already_answered, target_tokens
    from rome_engine.fact_files import without

    file = without(file, effects.unaskable(model, [fact for _, fact in file.facts]))
    wanted = len(file.facts) if limit is None else limit
    given: dict[int, str] = {}
    end = 0
    while end - len(given) < wanted and end < len(file.facts):  # --limit is of those that can be used
        some = [fact for _, fact in file.facts[end : wanted + len(given)]]
        answered = already_answered(model, some, [target_tokens(model, fact) for fact in some])
        given |= {end + place: "its target is the model's answer already" for place in answered}
        end += len(some)
    file = without(replace(file, facts=file.facts[:end]), given)
    with output.progress("asking the model") as tick:
        return file, effects.ask(model, [fact for _, fact in file.facts], tick)


def _describe(file: FactFile, records: int, effects: Sequence[Effect]) -> dict[str, Any]:
    """What became of the file's facts, as a JSON object whose names are promised to scripts."""
    from rome_engine.bench.effects import summary

    return {
        "file": file.name,
        "records": records,
        "edited": len(effects),
        "skipped": [{"record": one.number, "line": one.line, "reason": one.reason} for one in file.malformed],
        "summary": summary(effects),
        "facts": [effect.to_dict() for effect in effects],
    }


def _show(record: dict[str, Any]) -> None:
    from rich.table import Table

    console = output.stdout()
    count, skipped = record["edited"], len(record["skipped"])
    left = f"; {skipped} of {record['records']} records left out" if skipped else ""
    output.heading(f"{count} {'fact' if count == 1 else 'facts'} of {record['file']} rewritten{left}")
    table = Table("", "texts", "success before", "after", "answered before", "after")
    for kind, found in record["summary"].items():
        before, after = found["before"], found["after"]
        if before["texts"]:
            values = (when[name] for name in ("success", "argmax") for when in (before, after))
            table.add_row(kind, str(before["texts"]), *("" if value is None else f"{value:.1%}" for value in values))
    console.print(table)
    console.print(
        "success: the new answer is likelier than the old one (for neighbours: the old one is); "
        "answered: it is the likeliest of all",
        style="dim",
    )
    shares = ", ".join(
        f"{layer}: {delta / weight:.1%}"
        for layer, delta, weight in zip(record["layers"], record["delta_norm"], record["weight_norm"], strict=True)
    )
    console.print(
        f"{record['method']}, ‖Δ‖ / ‖W‖ at layer {shares}; {sum(record['seconds'].values()):.1f} s", highlight=False
    )
