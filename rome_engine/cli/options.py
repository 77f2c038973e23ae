"""Options that many commands have, described for someone who uses them for the first time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

FLAG = ""  # shown in the place of a value, which a switch has none of
TOKENS = 200_000  # as in rome_engine.stats, which takes seconds to import


class Command(TyperCommand):
    """A command whose help does not say that `--help` takes a value."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option `--help`."""
        return _bare(super().get_help_option(ctx))


class Group(TyperGroup):
    """A group of commands whose help does not say that `--help` takes a value."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option `--help`."""
        return _bare(super().get_help_option(ctx))


def _bare(option: Any) -> Any:
    if option is not None:
        option.metavar = FLAG
    return option


def checked_seed(value: int | None) -> int | None:
    """The seed itself. Raises BadParameter for one out of range."""
    if value is not None and not 0 <= value < 2**32:
        raise typer.BadParameter(f"a seed is between 0 and {2**32 - 1}, not {value}")
    return value


Prompt = Annotated[
    str,
    typer.Argument(
        metavar="PROMPT", help='Text that ends where the answer begins, such as "The Eiffel Tower is located in".'
    ),
]
Subject = Annotated[
    str,
    typer.Option(
        "--subject",
        "-s",
        metavar="WORDS",
        help="Whom or what the fact is about, exactly as it stands in the prompt. "
        "Where it stands there twice, write {} in the prompt in the place that is meant.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Hub id such as openai-community/gpt2, or a folder. Without it: the small model that is included.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", callback=checked_seed, help="Seed of what is drawn at random.")]
Bos = Annotated[
    Literal["always", "never"],
    typer.Option(
        metavar="WHEN", help="Put a document-start token first where the tokenizer does not: always or never."
    ),
]
Json = Annotated[
    bool, typer.Option("--json", metavar=FLAG, help="Print one JSON object on stdout, everything else on stderr.")
]

_PANEL = "Loading the model"
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(
        metavar="TYPE",
        rich_help_panel=_PANEL,
        help="Number type of the weights: float32, bfloat16, float16, or auto for what the checkpoint has.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=_PANEL, help="Where to compute, such as cuda. Without it: cpu."),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        metavar="MAP",
        rich_help_panel=_PANEL,
        help="Split a model that is too large for one device: auto, balanced, sequential, or a JSON object of module "
        'names and devices such as {"transformer.h.0": 0, ...}; disk keeps weights on disk until they are needed.',
    ),
]
OffloadFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        rich_help_panel=_PANEL,
        help="Where a split model's weights go that cannot be read from its own files; most models have none.",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=_PANEL, help="Branch, tag or commit of a model on the Hub."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        metavar=FLAG,
        rich_help_panel=_PANEL,
        help="Run code that comes with the model. Only if you trust its authors.",
    ),
]
