"""`rome-engine model`: what a model is made of, and the embedded one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import fetch, load

app = typer.Typer(cls=options.Group, help="Look into a model, or fetch the one that is included.", no_args_is_help=True)


@app.command("inspect", cls=options.Command)
def inspect(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Hub id or folder. Without it: the model that is included.")
    ] = None,
    as_json: options.Json = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Show where a model's parts are, and the numerical proofs of it."""
    from rich.table import Column, Table

    loaded = load(model, dtype, device, revision, trust_remote_code)
    record = {
        "model": loaded.name,
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "weights": loaded.weight_hash(),
        "architecture": asdict(loaded.architecture),
        "proofs": [{**asdict(proof), "holds": proof.holds} for proof in loaded.proofs],
    }
    if as_json:
        output.emit(record)
        return
    output.heading(f"{loaded.name} · {loaded.architecture.model_class}")
    parts = Table("part", Column("found", overflow="fold"))
    for name, value in asdict(loaded.architecture).items():
        parts.add_row(name.replace("_", " "), f"{value[0]} … {value[-1]}" if name == "blocks" else _shown(value))
    parts.add_row("weights (sha256)", str(record["weights"]))
    proofs = Table("proof", "relative error", "allowed", "holds")
    for proof in loaded.proofs:
        proofs.add_row(proof.claim, f"{proof.error:.1e}", f"{proof.tolerance:.0e}", _shown(proof.holds))
    console = output.stdout()
    console.print(parts)
    console.print(proofs)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


@app.command("fetch", cls=options.Command)
def fetch_embedded(as_json: options.Json = False) -> None:
    """Fetch and convert the embedded model now, so that everything later works offline."""
    from rome_engine.model import embedded

    if not embedded.is_ready():
        fetch()
    folder = embedded.ensure()
    if as_json:
        output.emit({"model": embedded.NAME, "folder": str(folder)})
    else:
        output.stdout().print(f"{embedded.NAME} is ready: {folder}", highlight=False, soft_wrap=True)
