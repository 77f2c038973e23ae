"""What the commands that trace share: their options, and the settings these make."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rome_engine.cli import output
from rome_engine.errors import TargetError, TraceError
from rome_engine.facts import Fact

if TYPE_CHECKING:
    from rome_engine.trace import Settings


class Kind(StrEnum):
    """What can be exchanged; a list of options takes no Literal."""

    hidden = "hidden"
    mlp = "mlp"
    attn = "attn"
    head = "head"
    pre = "pre"
    mid = "mid"


Metric = Literal["probability", "log_probability", "logit_difference", "kl", "rank"]

Kinds = Annotated[
    list[Kind] | None,
    typer.Option(
        "--kind",
        metavar="KIND",
        help="What to exchange: hidden (all that a layer passes on), mlp or attn (what that part of a layer adds), "
        "head (what each attention head adds), pre or mid (the residual stream before a layer, or between its parts). "
        "Give it several times for several maps. Without it: hidden (trace), hidden, mlp and attn "
        "(trace-facts), or these and head (screen).",
    ),
]
Windows = Annotated[
    list[int] | None,
    typer.Option(
        "--window",
        metavar="N",
        min=1,
        help="Layers exchanged together, for mlp and attn; several times for several widths. Without it: 10.",
    ),
]
Samples = Annotated[
    int, typer.Option(metavar="N", min=1, help="Noisy copies of the prompt to average over (one, for a swap).")
]
Noise = Annotated[
    list[str] | None,
    typer.Option(
        "--noise",
        metavar="LEVEL",
        help="How the subject is corrupted: 3s is Gaussian noise of three times the spread of the model's embeddings, "
        "0.35 the noise's standard deviation itself; uniform:3s, covariance:3s and replace:3s (noise in the place of "
        "the embeddings) likewise; swap or swap:OTHER puts another subject of as many tokens there. Several times: "
        "each makes all the maps, and how far they agree is told. Without it: 3s.",
    ),
]
Subjects = Annotated[
    Path | None,
    typer.Option(
        "--subjects",
        metavar="FILE",
        help="Subjects, one a line, whose embeddings' spread the noise is measured by. Without it: those of the facts "
        "that are included.",
    ),
]
Direction = Annotated[
    Literal["restore", "corrupt"],
    typer.Option(
        metavar="WAY",
        help="restore: put clean states into the corrupted run (are they enough?). corrupt: put corrupted states into "
        "the clean run (are they needed?).",
    ),
]
Sever = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PARTS",
        help="Make every map a second time with these parts held at the patched run's values: mlp (of the exchanged "
        "token, at all layers), attn@10-20, mlp+head3@5:last and the like. Several times for several graphs.",
    ),
]
Tokens = Annotated[
    str,
    typer.Option(
        metavar="WHICH",
        help="Tokens whose states are exchanged: all, subject, first-subject, last-subject, after, last, or 3-5,7.",
    ),
]
Engine = Annotated[
    Literal["fast", "reference"],
    typer.Option(metavar="NAME", help="fast, or reference: slow and simple, to check the fast one with."),
]
BosPolicy = Annotated[
    Literal["auto", "always", "never"],
    typer.Option(
        metavar="WHEN",
        help="Put a document-start token first: always, never, or auto (where the subject begins the prompt).",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory that the fast engine may use beside the model, such as 512MiB or 2GiB. Without it: 1GiB.",
    ),
]
ShownMetric = Annotated[
    Metric,
    typer.Option(
        "--metric",
        metavar="NAME",
        help="What the pictures show: probability, log_probability, logit_difference (needs --foil), kl (to the clean "
        "run) or rank. Tables and JSON hold them all.",
    ),
]
Outputs = Annotated[
    list[Path] | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="File to write: .html (interactive), .png, .svg, .pdf, .json, or .csv and .parquet (tidy tables). "
        "Several times for several files.",
    ),
]
Answer = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help="The answer that is scored. Without it: the model's own next token."),
]
Foil = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A wrong answer, to measure the difference of logits with.")
]


def check_question(prompt: str, subject: str | None, answer: str | None, foil: str | None) -> None:
    """Say before the model is loaded what cannot be asked. Raises PromptError and its kinds, TargetError."""
    output.check_text(prompt)
    if subject is not None:
        Fact.of(prompt, subject)
    for text in (answer, foil):
        if text is not None:
            output.check_answer(text)
    if answer is not None and foil is not None and answer.strip() == foil.strip():
        raise TargetError(f"the foil {foil!r} is the answer: name another one")


def settings(
    *,
    kinds: list[Kind] | None,
    windows: list[int] | None,
    noise: list[str] | None,
    severed: list[str] | None,
    tokens: str,
    memory: str | None,
    subjects: Path | None = None,
    default_kinds: tuple[str, ...] = ("hidden",),
    **other: Any,
) -> Settings:
    """The settings of the options. Raises TraceError for what cannot be read or does not fit together."""
    from rome_engine.trace import Settings

    return Settings(
        kinds=tuple(str(kind) for kind in kinds) if kinds else default_kinds,
        windows=tuple(windows or (10,)),
        corruptions=tuple(noise or ("3s",)),
        severed=("", *(severed or ())),
        positions=tokens,
        memory=bytes_of(memory),
        subjects=None if subjects is None else _lines(subjects),
        **other,
    )


def _lines(path: Path) -> tuple[str, ...]:
    """The lines of a file that hold something. Raises TraceError where there are none, or they cannot be read."""
    try:
        lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise TraceError(
            f"no subjects can be read from {path} ({reason}): give a text file, one subject a line"
        ) from error
    if not lines:
        raise TraceError(f"the file {path} names no subject: write one a line")
    return lines


UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def bytes_of(text: str | None) -> int | None:
    """The bytes of a size such as 512MiB. Raises TraceError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?)b?", text.strip().lower(), flags=re.ASCII)
    if found is None or found[2] not in UNITS or float(found[1]) <= 0:
        raise TraceError(f"the memory {text!r} cannot be read: write a size such as 512MiB or 2GiB")
    return int(float(found[1]) * UNITS[found[2]])
