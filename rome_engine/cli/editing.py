"""What the commands that edit share: where an edit is written, its guards, and its card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rome_engine.cli import output

if TYPE_CHECKING:
    from rome_engine.edit import Checkup, Edit, Health
    from rome_engine.facts import Fact
    from rome_engine.model.language_model import LanguageModel
    from rome_engine.stats import SecondMoment

GUARDS = "Guards"
ONE_FACT = "r-rome, rome (as first published; it can damage a model)"
MANY_FACTS = "memit, memit-history, emmet, pmet, alphaedit"
TRAINED = "ft-l, lora (needs the extra peft)"
METHODS = f"{ONE_FACT}, {MANY_FACTS}, {TRAINED}."

Layer = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help="Layer to change (the last of several), from 0. Without it: the default."),
]
Corpus = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Plain text whose statistics are used, collected where they are not there yet. Without it: those that "
        "are shipped or in the cache.",
    ),
]
Tokens = Annotated[int, typer.Option(metavar="N", min=1, help="How many tokens of --corpus to read.")]
Save = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the edit, for `ask --edit` (.safetensors).")]
Merged = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write the edited model, for plain transformers.")]
Adapter = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Write the edit as a LoRA adapter, for the library peft.")
]
Card = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write what was changed, where, by what and what came of it, as Markdown."),
]
Guarding = Literal["rollback", "refuse", "warn", "off"]
Guard = Annotated[
    Guarding,
    typer.Option(
        metavar="NAME",
        rich_help_panel=GUARDS,
        help="What happens where an edit damages the model (a text's perplexity rises, known answers are lost). "
        "rollback: nothing is written; refuse: nor where its numbers alone are suspicious; warn: it is said and goes "
        "on; off: nothing is measured.",
    ),
]


@dataclass(frozen=True)
class Outputs:
    """Where an edit goes, in each of its forms."""

    save: Path | None
    merged: Path | None
    adapter: Path | None
    card: Path | None

    def check(self, model: str | None, *inputs: Path | None) -> None:
        """Say before any work what cannot be written, or must not: see `output.check_apart`. Raises StorageError."""
        for file in (self.save, self.card):
            output.check_writable(file)
        for folder in (self.merged, self.adapter):
            output.check_free(folder)
        output.check_apart((self.save, self.merged, self.adapter, self.card), inputs, model)

    def write(self, model: LanguageModel, edit: Edit, card: Callable[..., str]) -> dict[str, str | None]:
        """Write all that was asked for, the longest write first: where it fails nothing else has been written.

        card: of its last two arguments, see `report.card`.
        """
        from transformers.utils.logging import disable_progress_bar

        from rome_engine.edit import save_adapter, save_merged
        from rome_engine.files import write_whole

        if self.merged is not None:
            with output.stderr().status("writing the edited model"):
                disable_progress_bar()  # transformers' own, one line of noise a file
                save_merged(model, edit, self.merged, card=card(form="merged", path="."))
        if self.adapter is not None:
            save_adapter(model, edit, self.adapter, card=card(form="adapter", path="."))
        if self.save is not None:
            edit.save(self.save)
        if self.card is not None:
            kept = {"edit": self.save, "merged": self.merged, "adapter": self.adapter}
            beside = ({"form": form, "path": path.name} for form, path in kept.items() if path is not None)
            write_whole(self.card, card(**next(beside, {"form": None})).encode())
        named = {"edit_file": self.save, "merged": self.merged, "adapter": self.adapter, "card": self.card}
        return {name: None if path is None else str(path) for name, path in named.items()}


def settings(model: LanguageModel, method: str, layer: int | None, seed: int, guard: Guarding) -> Any:
    """A method's settings with those of the options. Raises EditError."""
    from rome_engine.edit import editor

    return guarded(replace(editor(method).default(model, layer), seed=seed), guard)


def guarded(config: Any, guard: Guarding) -> Any:
    """A method's settings with the policy of the option."""
    return replace(config, guard=replace(config.guard, policy="refuse" if guard == "refuse" else "warn"))


def make(
    model: LanguageModel,
    facts: Sequence[Fact],
    method: str,
    config: Any,
    corpus: Path | None,
    tokens: int,
) -> Edit:
    """The edit of facts, with progress. Raises as `edit_facts` does."""
    from rome_engine.edit import edit_facts, editor
    from rome_engine.edit.rewrite import check_editable

    chosen = editor(method)
    check_editable(model, chosen, len(facts))
    found = collected(model, chosen.layers(config), corpus, tokens)
    with output.progress("editing") as tick:
        return edit_facts(
            model,
            facts,
            method=method,
            moments=found,
            config=config,
            progress=lambda step, total, _loss: tick(step, total),
        )


def collected(model: LanguageModel, layers: Sequence[int], corpus: Path | None, tokens: int) -> dict[int, SecondMoment]:
    """The second moments of these layers, with progress where they are collected now; none for no layers."""
    from rome_engine.stats import Corpus as Texts
    from rome_engine.stats import moments

    if not layers:
        return {}
    with output.progress("collecting second moments") as tick:
        return moments(
            model,
            layers,
            corpus=None if corpus is None else Texts(corpus),
            tokens=tokens,
            progress=lambda _message, share: tick(round(share * tokens), tokens),
        )


def checkup(model: LanguageModel, guard: Guarding) -> Checkup | None:
    """What edits of the model are measured against; None where that is not wanted. To be called before the edit."""
    if guard == "off":
        return None
    from rome_engine.edit import Checkup

    with output.stderr().status("measuring the model"):
        return Checkup(model)


def checked(checkup: Checkup | None, edit: Edit, guard: Guarding) -> Health | None:
    """The model's health with the edit. Raises EditError for a model that is damaged."""
    return _checked(checkup, guard, lambda model: model.of(edit))


def checked_now(checkup: Checkup | None, edits: Sequence[Edit], guard: Guarding) -> Health | None:
    """As `checked`, with edits that are in force."""
    return _checked(checkup, guard, lambda model: model.now(*edits))


def _checked(checkup: Checkup | None, guard: Guarding, measure: Callable[[Checkup], Health]) -> Health | None:
    if checkup is None or guard == "off":
        return None
    from rome_engine.edit import Limits

    with output.stderr().status("measuring the edited model"):
        health = measure(checkup)
    Limits(policy=guard).check(health)
    return health


def show_health(health: Health | None) -> None:
    """One line on what became of the rest of the model."""
    if health is not None:
        output.stdout().print(
            f"perplexity of held-out text {health.perplexity_before:.2f} → {health.perplexity:.2f}; "
            f"{health.lost} of {health.known} known answers about other subjects lost",
            highlight=False,
        )


def show_written(record: dict[str, Any]) -> None:
    """Where the results lie, or that nothing was kept."""
    names = ("edit_file", "merged", "adapter", "card")
    for name in names:
        output.written(record[name])
    if not any(record[name] for name in names):
        output.stderr().print(
            "nothing was kept: give --save FILE, --merged FOLDER or --adapter FOLDER", highlight=False
        )
