"""`rome-engine locate-edit`: what tracing says of where an edit works, by measurement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rome_engine.cli import editing, options, output
from rome_engine.cli.loading import Source, loads
from rome_engine.cli.stats import parse_layers

if TYPE_CHECKING:
    from rome_engine.bench.locate_result import LocateEdit


@loads(split=True)
def command(
    facts: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="Facts with target_new and target_true. Without it: those that are included."
        ),
    ] = None,
    model: Source = Source(),
    method: Annotated[str, typer.Option(metavar="NAME", help=editing.METHODS)] = "r-rome",
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            help="Layers to edit at (the last of several), such as 4-16 or 4,8,12; the one at the fixed depth is "
            "added. Without it: ten, evenly over the model.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=3, help="Draw N of the facts that the model answers right. Without it: all."),
    ] = None,
    window: Annotated[int, typer.Option(metavar="N", min=1, help="Layers of MLPs that are restored together.")] = 10,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Noisy copies of a prompt to average over.")] = 10,
    threshold: Annotated[
        float,
        typer.Option(metavar="X", help="Leave facts out whose total effect is under X of probability: too small."),
    ] = 0.05,
    score: Annotated[
        Literal["rewrite", "es", "ps", "ns", "em", "free"],
        typer.Option(
            metavar="NAME",
            help="What layers are compared by: rewrite (how far the new answer's probability comes of the way to 1), "
            "es, ps, ns, em (rewrite magnitude), or free (greedy text begins with the new answer). Tables and JSON "
            "hold them all.",
        ),
    ] = "rewrite",
    seed: options.Seed = 0,
    corpus: editing.Corpus = None,
    tokens: editing.Tokens = options.TOKENS,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="File to write: .html (a page), .json, or .csv and .parquet (a row a fact and layer). Several times "
            "for several files.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Trace facts, edit each at one layer after another, and measure what the one says of the other.

    Beside it: a random layer, one at a fixed depth, and the best of the measured ones.
    """
    wanted = None if layers is None else parse_layers(layers)

    from rome_engine.bench import locate
    from rome_engine.edit import editor
    from rome_engine.fact_files import read_facts
    from rome_engine.report.locate_saving import LOCATE_SUFFIXES, save_locate
    from rome_engine.resources import data_file

    files = output.checked(out, LOCATE_SUFFIXES, model.name, facts, corpus)
    chosen = editor(method)
    file = read_facts(data_file("facts.json") if facts is None else facts)
    loaded = model.load()
    edited = locate.swept(loaded, locate.default_layers(loaded) if wanted is None else wanted)
    moments = editing.collected(loaded, locate.touched(loaded, chosen, edited), corpus, tokens)
    with output.phases() as told:
        found = locate.locate_edit(
            loaded,
            chosen,
            [fact for _, fact in file.facts],
            moments,
            edited,
            limit=limit,
            window=window,
            samples=samples,
            threshold=threshold,
            score=score,
            seed=seed,
            source=file.name,
            progress=told,
        )
    for path in files:
        save_locate(found, path)
    if as_json:
        output.emit(found.to_dict())
    else:
        _show(found)
    output.written(*files)


def _show(found: LocateEdit) -> None:
    from rich.table import Table

    from rome_engine.bench.locate_result import SCORES
    from rome_engine.report.locate_words import layers_of, shown, title, told
    from rome_engine.report.reading import MISSING, number

    others = [name for name in SCORES if name != found.score]
    output.heading(f"{title(found)}, {len(found.facts)} of {found.given} facts")
    table = Table("each fact is edited at", "layers", SCORES[found.score], *(SCORES[name] for name in others))
    for one in found.controls:
        means = (one.scores[name].value for name in others)
        table.add_row(
            one.name,
            layers_of(one),
            told(one.scores[found.score]),
            *(MISSING if mean is None else number(mean) for mean in means),
        )
    output.stdout().print(table)
    for sentence in shown(found):
        output.stdout().print(sentence, markup=False, highlight=False)
