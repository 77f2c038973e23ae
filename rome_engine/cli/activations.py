"""`rome-engine activations`: named activations of one prompt, listed or saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import Source, loads
from rome_engine.errors import ActivationError

if TYPE_CHECKING:
    from rome_engine.model.activations import Activations

SUFFIXES = (".safetensors",)


@loads(split=True)
def command(
    prompt: options.Prompt,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            "-n",
            metavar="PATTERN",
            help="Which activations: a name such as blocks.3.mlp, or a pattern such as 'blocks.*.hidden'. "
            "Give it several times for several. Without it: all.",
        ),
    ] = None,
    model: Source = Source(),
    bos: options.Bos = "never",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write the tensors to: .safetensors.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List or save a model's activations on a prompt.

    Names: embed, and for each layer L blocks.L.pre, .heads, .attn, .mid, .key, .value, .mlp and .hidden; final.
    """
    output.check_text(prompt)
    if any(not pattern.strip() for pattern in name or []):
        raise ActivationError("the name is empty: give a name or a pattern such as 'blocks.*.mlp'")

    from rome_engine.model import run_with_cache
    from rome_engine.trace import provenance

    files = output.checked([] if out is None else [out], SUFFIXES, model.name)
    loaded = model.load()
    found = run_with_cache(loaded, prompt, name or "*", bos=bos)
    tokens = found.prompts[0]
    record = {
        "model": loaded.name,
        "prompt": tokens.text,
        "tokens": list(tokens.tokens),
        "provenance": {**provenance.of(loaded, tokens), "bos": bos},
    }
    for path in files:
        _save(found, record, path)
    rows = _rows(found)
    if as_json:
        output.emit({**record, "activations": rows})
    else:
        _show(loaded.name, rows)
    output.written(*files)


def _rows(found: Activations) -> list[dict[str, Any]]:
    """Name, shape, number type, and the mean over tokens of the norm."""
    return [
        {
            "name": name,
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "norm": float(tensor.float().flatten(2).norm(dim=-1).mean()),
        }
        for name, tensor in found.items()
    ]


def _show(model: str, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    output.heading(f"{model}: activations")
    table = Table("name", "shape")
    table.add_column("mean norm", justify="right")
    for row in rows:
        table.add_row(row["name"], " × ".join(map(str, row["shape"])), f"{row['norm']:.4g}")
    output.stdout().print(table)


def _save(found: Activations, record: dict[str, Any], path: Path) -> None:
    """Tensors by name; what they are, as JSON, under "rome_engine" in the file's metadata."""
    from safetensors.torch import save

    from rome_engine.files import write_whole

    tensors = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
    write_whole(path, save(tensors, metadata={"format": "pt", "rome_engine": json.dumps(record)}))
