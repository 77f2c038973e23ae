"""`rome-engine screen`: which of all states carry a fact, first by gradients, then exactly."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import load
from rome_engine.errors import TargetError
from rome_engine.facts import Fact


class Kind(StrEnum):
    """What can be screened; a list of options takes no Literal."""

    hidden = "hidden"
    mlp = "mlp"
    attn = "attn"
    head = "head"
    pre = "pre"


def command(
    prompt: options.Prompt,
    subject: options.Subject,
    model: options.Model = None,
    kind: Annotated[
        list[Kind] | None,
        typer.Option(
            metavar="KIND",
            help="What is exchanged: hidden (all that a layer passes on), mlp or attn (what that part of it adds), "
            "head (one attention head) or pre (all that a layer is given). Give it several times for several. Without "
            "it: hidden, mlp, attn and head.",
        ),
    ] = None,
    window: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=1, help="Layers exchanged together, for mlp and attn; repeatable. Without it: 1."
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(metavar="K", min=0, help="How many of the strongest by gradient are verified exactly.")
    ] = 50,
    random: Annotated[
        int,
        typer.Option(
            metavar="R", min=0, help="How many of the others, drawn at random, are verified: they tell what was missed."
        ),
    ] = 50,
    metric: Annotated[
        Literal["log_probability", "probability", "logit_difference"],
        typer.Option(metavar="NAME", help="log_probability, probability or logit_difference (which needs --foil)."),
    ] = "log_probability",
    direction: Annotated[
        Literal["restore", "corrupt"],
        typer.Option(
            metavar="WAY", help="restore: clean states into the corrupted run; corrupt: corrupted into the clean one."
        ),
    ] = "restore",
    answer: Annotated[
        str | None,
        typer.Option("--answer", "-a", metavar="TEXT", help="The answer. Without it: what the model itself says next."),
    ] = None,
    foil: Annotated[str | None, typer.Option(metavar="TEXT", help="A wrong answer, for logit_difference.")] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Noisy copies of the prompt to average over.")] = 10,
    noise: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="How the subject is corrupted: 3s is noise of three times the spread of the model's embeddings, 0.35 "
            "the noise's standard deviation itself, swap another subject.",
        ),
    ] = "3s",
    bos: Annotated[
        Literal["auto", "always", "never"],
        typer.Option(
            metavar="WHEN",
            help="Put a document-start token first: always, never, or auto (where the subject begins the prompt).",
        ),
    ] = "auto",
    seed: options.Seed = 1,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write: .json, .csv or .parquet.")] = None,
    as_json: options.Json = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Screen all states of a model for those that carry the answer (attribution patching).

    One forward and one backward pass estimate the effect of exchanging each state; the strongest, and some of the
    others at random, are then exchanged one by one for exact numbers, and the output says which numbers are which.
    """
    output.check_text(prompt)
    Fact.of(prompt, subject)  # a subject that is not there is said before the model is loaded
    for text in (answer, foil):
        if text is not None:
            output.check_answer(text)
    if answer is not None and foil is not None and answer.strip() == foil.strip():
        raise TargetError(f"the foil {foil!r} is the answer: name another one")
    output.check_writable(out)

    from rome_engine.files import suffix_among
    from rome_engine.report.screen_table import SUFFIXES, save_screen, screen_table
    from rome_engine.trace.screen import DEFAULT, check, screen
    from rome_engine.trace.settings import Settings

    settings = Settings(
        kinds=tuple(dict.fromkeys(map(str, kind or DEFAULT.kinds))),
        windows=tuple(dict.fromkeys(window or DEFAULT.windows)),
        corruptions=(noise,),
        samples=samples,
        seed=seed,
        direction=direction,
        bos=bos,
    )
    check(settings, metric, foil, top, random)
    if out is not None:
        suffix_among(out, SUFFIXES)
    loaded = load(model, dtype, device, revision, trust_remote_code)
    with output.progress("verifying") as tick:
        found = screen(
            loaded,
            prompt,
            subject,
            settings,
            answer=answer,
            foil=foil,
            top=top,
            random=random,
            metric=metric,
            progress=tick,
        )
    if out is not None:
        save_screen(found, out)
    if as_json:
        output.emit(found.to_dict())
    else:
        output.stdout().print(screen_table(found))
    output.written(out)
