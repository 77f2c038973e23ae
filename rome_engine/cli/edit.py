"""`rome-engine edit`: rewrite one fact."""

from __future__ import annotations

from functools import partial
from math import exp
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rome_engine.cli import editing, options, output
from rome_engine.cli.loading import Source, loads
from rome_engine.facts import Fact

if TYPE_CHECKING:
    from rome_engine.edit import Edit
    from rome_engine.model.language_model import LanguageModel


@loads()
def command(
    prompt: options.Prompt,
    subject: options.Subject,
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="WORDS", help="The answer that the model shall give instead.")
    ],
    model: Source = Source(),
    method: Annotated[str, typer.Option(metavar="NAME", help=editing.METHODS)] = "r-rome",
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
    """Rewrite one fact: make the model answer a prompt, and what asks the same, with the target."""
    output.check_text(prompt)
    fact = Fact.of(prompt, subject).with_target(target)
    outputs = editing.Outputs(save, merged, adapter, card)
    outputs.check(model.name, corpus)

    from rome_engine.bench import effects
    from rome_engine.edit import editor
    from rome_engine.edit.targets import new_target
    from rome_engine.report.card import edit_card
    from rome_engine.stats import Corpus

    editor(method)  # a mistake in it, or in the next line, is said before the model is loaded
    if corpus is not None:
        Corpus(corpus)
    loaded = model.load()
    config = editing.settings(loaded, method, layer, seed, guard)
    new_target(loaded, fact)  # what cannot be edited is said before minutes are spent on statistics
    checkup = editing.checkup(loaded, guard)
    edit = editing.make(loaded, [fact], method, config, corpus, tokens)
    health = editing.checked(checkup, edit, guard)
    record = describe(loaded, fact, edit)
    asked = effects.ask(loaded, [fact]).after(loaded, edit)
    record |= {"health": None if health is None else health.to_dict()}
    record |= outputs.write(loaded, edit, partial(edit_card, edit, asked, health))
    if as_json:
        output.emit(record)
    else:
        _show(record)
        editing.show_health(health)
        editing.show_written(record)


def describe(model: LanguageModel, fact: Fact, edit: Edit) -> dict[str, Any]:
    """What an edit did on its own prompt, as a JSON object whose names are promised to scripts."""
    assert fact.target_new is not None
    prompt = model.tokenize(fact.prompt, fact.subject)
    new = model.target_ids(fact.text, fact.target_new)
    old = (int(model.next_token_logits(prompt).argmax()),)

    def measure() -> dict[str, float]:
        return {side: exp(model.target_log_probability(prompt, ids)) for side, ids in (("old", old), ("new", new))}

    before = measure()
    with edit.applied(model):
        after = measure()
    layers = sorted(edit.layers)
    return {
        "model": model.name,
        "prompt": fact.text,
        "subject": fact.subject,
        "old_target": model.text(old).strip() or model.text(old),
        "target": fact.target_new,
        "method": edit.provenance.method,
        "before": before,
        "after": after,
        "layers": layers,
        "delta_norm": [edit.layers[layer].delta_norm for layer in layers],
        "weight_norm": [edit.layers[layer].weight_norm for layer in layers],
        "denominator": [edit.layers[layer].denominator for layer in layers],
        "relative_denominator": [edit.layers[layer].relative_denominator for layer in layers],
        "seconds": dict(edit.provenance.seconds),
        "provenance": edit.provenance.to_dict(),
    }


def _show(record: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = output.stdout()
    output.heading(f"{record['prompt']} …")
    table = Table("", "before", "after")
    for side, name in (("old", record["old_target"]), ("new", record["target"])):
        table.add_row(Text(f"p({name})"), *(output.probability(record[when][side]) for when in ("before", "after")))
    console.print(table)
    for index, layer in enumerate(record["layers"]):
        share = record["delta_norm"][index] / record["weight_norm"][index]
        console.print(
            f"{record['method']} at layer {layer}: ‖Δ‖ = {record['delta_norm'][index]:.2f}, {share:.1%} of ‖W‖; "
            f"{sum(record['seconds'].values()):.1f} s",
            highlight=False,
        )
