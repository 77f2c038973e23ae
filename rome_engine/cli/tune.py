"""`rome-engine tune`: a method's settings for a model, by measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rome_engine.cli import editing, options, output
from rome_engine.cli.loading import Source, loads
from rome_engine.cli.stats import parse_layers
from rome_engine.errors import EditError

if TYPE_CHECKING:
    from rome_engine.bench.tune import Trial, Tuned

_ROLES = {
    "layers": "layer tried",
    "settings": "settings tried",
    "best": "held out: the best",
    "default": "held out: as before",
    "random": "held out: a random layer",
    "depth": "held out: fixed depth",
}


@loads(split=True)
def command(
    model: Source = Source(),
    method: Annotated[str, typer.Option(metavar="NAME", help=editing.METHODS)] = "r-rome",
    facts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Facts with target_new and target_true. Without it: those that are shipped."),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            help="Layers to try (the last of several), such as 4-12 or 4,8,12. Without it: every second one of the "
            "first two thirds.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=A,B,…",
            help="Values to try of one setting, such as weight=150,1500 or value.clamp=1,2; may be given again. "
            "Without it: the two or three that matter most.",
        ),
    ] = None,
    tuning: Annotated[int, typer.Option(metavar="N", min=2, help="Facts to choose by.")] = 40,
    held_out: Annotated[int, typer.Option(metavar="N", min=2, help="Other facts to report on.")] = 40,
    seed: options.Seed = 0,
    corpus: editing.Corpus = None,
    tokens: editing.Tokens = options.TOKENS,
    keep: Annotated[
        bool | None,
        typer.Option(
            "--keep/--no-keep",
            help="Keep the best settings, so that later commands use them. Without either: where they are better than "
            "the present ones on the facts held out.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure which layer and settings a method works best with, on facts held out from the choice."""
    wanted = None if layers is None else parse_layers(layers)
    given = dict(_setting(text) for text in settings or ())

    from rome_engine.bench import tune as tuning_of
    from rome_engine.edit import editor
    from rome_engine.edit.presets import save_preset
    from rome_engine.fact_files import check_usable, read_facts
    from rome_engine.resources import data_file

    chosen = editor(method)
    file = read_facts(data_file("facts.json") if facts is None else facts)
    check_usable(file, "correct them")
    first, second = tuning_of.split([fact for _, fact in file.facts], tuning, held_out, seed)
    loaded = model.load()
    wanted = tuning_of.default_layers(loaded) if wanted is None else wanted
    grid = given or tuning_of.default_grid(chosen.default(loaded))
    tuning_of.check_grid(loaded, chosen, wanted[0], grid)
    moments = editing.collected(loaded, tuning_of.touched(loaded, chosen, wanted, seed), corpus, tokens)
    with output.progress("measuring") as tick:
        found = tuning_of.tune(
            loaded,
            chosen,
            first,
            second,
            moments,
            wanted,
            grid,
            seed=seed,
            progress=lambda _phase, done, total: tick(done, total),
            told=None if as_json else _tell,
        )
    record = found.to_dict() | {"model": loaded.name, "seed": seed}
    wanted_kept = found.better if keep is None else keep
    kept = save_preset(loaded, method, found.config, {**record, "config": None}) if wanted_kept else None
    record["preset"] = None if kept is None else str(kept)
    if as_json:
        output.emit(record)
        return
    _show(found)
    output.written(kept)
    if keep is None and not found.better:
        output.stderr().print("not kept: on the facts held out they are no better than the present ones (--keep does)")


def _setting(text: str) -> tuple[str, list[Any]]:
    """Of "weight=150,1500". Raises EditError."""
    name, equals, values = text.partition("=")
    if not name or not equals or not values:
        raise EditError(f"the setting {text!r} is not given as NAME=A,B, such as weight=150,1500")
    return name.strip(), [_number(value.strip()) for value in values.split(",")]


def _number(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise EditError(f"{text!r} is no number that a setting can have") from error


def _tell(trial: Trial) -> None:
    output.stderr().print(" ".join(_row(trial)), highlight=False, soft_wrap=True)


def _row(trial: Trial) -> list[str]:
    settings = ", ".join(f"{name} {_shown(value)}" for name, value in trial.settings.items()) or "default settings"
    if trial.scores is None:
        return [_ROLES[trial.role], str(trial.layer), settings, f"refused: {trial.failed}", "", "", ""]
    means = trial.scores.means
    return [
        _ROLES[trial.role],
        str(trial.layer),
        settings,
        *(f"{name.upper()} {100 * means[name]:.1f}" for name in ("es", "ps", "ns")),
        f"S {100 * trial.scores.score:.1f}",
    ]


def _shown(value: Any) -> str:
    return "unset" if value is None else f"{value:g}"


def _show(found: Tuned) -> None:
    from rich.table import Table

    output.heading(f"{found.method}: chosen by {found.n_tuning} facts, reported on {found.n_held_out} others")
    table = Table("", "layer", "settings", "ES", "PS", "NS", "S")
    for trial in found.held_out:
        table.add_row(*_row(trial))
    output.stdout().print(table)
