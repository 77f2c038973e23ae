"""`rome-engine edit`: rewrite one fact."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import load
from rome_engine.facts import Fact

if TYPE_CHECKING:
    from rome_engine.edit import Edit
    from rome_engine.model.language_model import LanguageModel


def command(
    prompt: options.Prompt,
    subject: options.Subject,
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="WORDS", help="The answer that the model shall give instead.")
    ],
    model: options.Model = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="r-rome, or rome (as first published; it can damage a model).")
    ] = "r-rome",
    layer: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Layer to change, from 0. Without it: the model's default.")
    ] = None,
    seed: options.Seed = 0,
    corpus: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plain text to collect the statistics from, for a model that has none yet."),
    ] = None,
    tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many tokens of --corpus to read.")
    ] = options.TOKENS,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the edit, for `ask --edit` (.safetensors).")
    ] = None,
    merged: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the edited model, for plain transformers.")
    ] = None,
    as_json: options.Json = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Rewrite one fact: make the model answer a prompt, and what asks the same, with the target."""
    output.check_text(prompt)
    fact = Fact.of(prompt, subject).with_target(target)
    output.check_writable(save)
    output.check_free(merged)

    from transformers.utils.logging import disable_progress_bar

    from rome_engine.edit import edit_fact, editor, save_merged
    from rome_engine.edit.targets import new_target
    from rome_engine.stats import Corpus, moments

    chosen = editor(method)
    text = None if corpus is None else Corpus(corpus)
    loaded = load(model, dtype, device, revision, trust_remote_code)
    config = replace(chosen.default(loaded, layer), seed=seed)
    new_target(loaded, fact)  # what cannot be edited is said before minutes are spent on statistics
    with output.progress("collecting second moments") as tick:
        found = moments(
            loaded,
            chosen.layers(config),
            corpus=text,
            tokens=tokens,
            progress=lambda _message, share: tick(round(share * tokens), tokens),
        )
    with output.progress("editing") as tick:
        edit = edit_fact(
            loaded,
            fact,
            method=method,
            moments=found,
            config=config,
            progress=lambda step, total, _loss: tick(step, total),
        )
    record = describe(loaded, fact, edit)
    if merged is not None:  # the longer write first: where it fails nothing else has been written
        with output.stderr().status("writing the edited model"):
            disable_progress_bar()  # transformers' own, one line of noise a file
            save_merged(loaded, edit, merged)
    if save is not None:
        edit.save(save)
    record |= {"edit_file": None if save is None else str(save), "merged": None if merged is None else str(merged)}
    if as_json:
        output.emit(record)
    else:
        _show(record)


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
    for name in ("edit_file", "merged"):
        output.written(record[name])
    if not record["edit_file"] and not record["merged"]:
        output.stderr().print("nothing was kept: give --save FILE or --merged FOLDER", highlight=False)
