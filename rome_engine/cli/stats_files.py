"""`rome-engine stats merge`, `import` and `export`: second moments from files and into files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import load
from rome_engine.files import suffix_among

if TYPE_CHECKING:
    from rome_engine.stats import SecondMoment

LEFT_OUT = {True: "left out", False: "kept", None: "unknown"}

Layer = Annotated[int, typer.Option(metavar="N", min=0, help="The layer whose keys they are.")]


def merge(
    shards: Annotated[list[Path], typer.Argument(metavar="FILE", help="The files of all shards of one collection.")],
    as_json: options.Json = False,
) -> None:
    """Join the parts that `--shard` collected; the result is kept in your cache, as if collected at once."""
    from rome_engine import stats

    found = list(stats.merge(shards).values())
    _kept("merged second moments", found, stats.keep(found), as_json)


def import_npz(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help="In the layout of ROME's published statistics.")],
    layer: Layer,
    model: options.Model = None,
    as_json: options.Json = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Take second moments that were collected elsewhere into your cache. That they are this model's is on your word."""
    from rome_engine.stats import SecondMoment, imported, keep

    SecondMoment.import_npz(file)  # a mistake is said before the model is loaded
    loaded = load(model, dtype, device, revision, trust_remote_code)
    moment = imported(loaded, layer, file)
    _kept(f"second moments of {loaded.name}", [moment], keep([moment]), as_json)
    output.stderr().print(f"edits of layer {layer} use them before all others, until that file is deleted")


def export_npz(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.npz", help="Written in the layout of ROME's published statistics.")
    ],
    layer: Layer,
    model: options.Model = None,
    precision: Annotated[
        Literal["float32", "float64"], typer.Option(metavar="TYPE", help="Number type in the file: float32 or float64.")
    ] = "float32",
    as_json: options.Json = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Write the second moments that edits would use, for other programs."""
    suffix_among(file, [".npz"])
    output.check_writable(file)
    output.check_apart([file], model=model)

    from rome_engine.stats import moments

    loaded = load(model, dtype, device, revision, trust_remote_code)
    moment = moments(loaded, [layer])[layer]
    moment.export_npz(file, dtype=precision)
    _kept(f"second moments of {loaded.name}", [moment], [file], as_json)


def describe(moment: SecondMoment) -> dict[str, Any]:
    """A moment as the fields of a JSON record."""
    about, convergence = moment.provenance, moment.convergence
    return {
        "layer": None if about is None else about.layer,
        "count": moment.count,
        "size": moment.d,
        "key": None if about is None else about.key,
        "corpus": None if about is None else about.corpus_name,
        "first_token_left_out": None if about is None else about.first_token_left_out,
        "convergence": None if convergence is None else convergence.to_dict(),
        "provenance": None if about is None else about.to_dict(),
    }


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print such records, a row each, and what their last column means."""
    from rich.table import Table
    from rich.text import Text

    shown = Table("layer", "keys", "size", "corpus", "position 0", "C⁻¹k moved")
    for row in rows:
        left_out, moved = LEFT_OUT[row["first_token_left_out"]], _moved(row["convergence"])
        shown.add_row(
            str(row["layer"]), f"{row['count']:,}", str(row["size"]), Text(str(row["corpus"])), left_out, moved
        )
    output.stdout().print(shown)
    if any(row["convergence"] for row in rows):
        output.stdout().print("C⁻¹k moved: 1 − cosine, and change of length, from half of the tokens to all of them")


def _moved(convergence: dict[str, Any] | None) -> str:
    if convergence is None:
        return "unknown"
    return f"{convergence['turned']:.2g}, {convergence['stretched']:.0%}"


def _kept(title: str, moments: Sequence[SecondMoment], files: Sequence[Path], as_json: bool) -> None:
    rows = [{**describe(moment), "file": str(file)} for moment, file in zip(moments, files, strict=True)]
    if as_json:
        output.emit({"moments": rows})
        return
    output.heading(title)
    table(rows)
    for file in files:
        output.written(file)
