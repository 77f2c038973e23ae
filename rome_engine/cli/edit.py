"""`rome-engine edit`: rewrite one fact."""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from rome_engine.cli import output
from rome_engine.cli.loading import load
from rome_engine.edit import Edit, edit_fact, save_merged
from rome_engine.errors import StorageError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import Corpus


def command(
    prompt: Annotated[str, typer.Argument(help="The prompt; `{}` may mark the subject's place.")],
    subject: Annotated[str, typer.Option("--subject", "-s", help="The words the fact is about, as in the prompt.")],
    target: Annotated[str, typer.Option("--target", "-t", help="The answer the model shall give.")],
    model: output.Model = None,
    method: Annotated[str, typer.Option(help="r-rome, or rome as first published.")] = "r-rome",
    layer: Annotated[int | None, typer.Option(help="Layer to edit; the model's default where left out.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Text file for the second moments, where the model has none yet.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Edit file to write (.safetensors).")] = None,
    merged: Annotated[
        Path | None, typer.Option(help="Folder to write the edited model to, for plain transformers.")
    ] = None,
    as_json: output.Json = False,
    dtype: output.Dtype = "auto",
    device: output.Device = None,
    revision: output.Revision = None,
    trust_remote_code: output.TrustRemoteCode = False,
) -> None:
    """Rewrite a fact: make the model answer the prompt, and what asks the same, with the target."""
    fact = Fact.of(prompt, subject).with_target(target)
    output.check_writable(save)
    if merged is not None and merged.exists() and (not merged.is_dir() or any(merged.iterdir())):
        raise StorageError(f"{merged} exists already: choose another folder, or remove it first")
    loaded = load(model, dtype, device, revision, trust_remote_code)
    with output.progress("editing") as tick:
        edit = edit_fact(
            loaded,
            fact,
            method=method,
            layer=layer,
            corpus=None if corpus is None else Corpus(corpus),
            progress=lambda step, total, _loss: tick(step, total),
        )
    record = describe(loaded, fact, edit)
    if save is not None:
        edit.save(save)
    if merged is not None:
        save_merged(loaded, edit, merged)
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
        "old_target": model.text(old).strip(),
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
    console = output.stdout()
    table = Table("", "before", "after", title=f"{record['prompt']} …", title_justify="left")
    for side, name in (("old", record["old_target"]), ("new", record["target"])):
        table.add_row(f"p({name})", *(output.probability(record[when][side]) for when in ("before", "after")))
    console.print(table)
    for index, layer in enumerate(record["layers"]):
        share = record["delta_norm"][index] / record["weight_norm"][index]
        console.print(
            f"{record['method']} at layer {layer}: ‖Δ‖ = {record['delta_norm'][index]:.2f}, {share:.1%} of ‖W‖; "
            f"{sum(record['seconds'].values()):.1f} s",
            highlight=False,
        )
    for name in ("edit_file", "merged"):
        if record[name]:
            output.stderr().print(f"written: {record[name]}", highlight=False, soft_wrap=True)
    if not record["edit_file"] and not record["merged"]:
        output.stderr().print("nothing was kept: give --save EDIT.safetensors or --merged FOLDER", highlight=False)
