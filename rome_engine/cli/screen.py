"""`rome-engine screen`: which of all states carry a fact, first by gradients, then exactly."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from rome_engine.cli import options, output, tracing
from rome_engine.cli.loading import Source, loads


@loads(split=True)
def command(
    prompt: options.Prompt,
    subject: options.Subject,
    model: Source = Source(),
    kind: Annotated[
        list[tracing.Kind] | None,
        typer.Option(
            metavar="KIND",
            help="What is exchanged: see trace; mid cannot be screened. Give it several times for several. Without it: "
            "hidden, mlp, attn and head.",
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
    share: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="A cell matters where its exact effect has at least this share of the strongest one's size; what was "
            "missed is counted in such cells.",
        ),
    ] = 0.25,
    metric: Annotated[
        Literal["log_probability", "probability", "logit_difference"],
        typer.Option(metavar="NAME", help="log_probability, probability or logit_difference (which needs --foil)."),
    ] = "log_probability",
    direction: tracing.Direction = "restore",
    answer: tracing.Answer = None,
    foil: tracing.Foil = None,
    samples: tracing.Samples = 10,
    noise: Annotated[str, typer.Option(metavar="LEVEL", help="How the subject is corrupted: see trace.")] = "3s",
    subjects: tracing.Subjects = None,
    tokens: tracing.Tokens = "all",
    engine: tracing.Engine = "fast",
    bos: tracing.BosPolicy = "auto",
    memory: tracing.Memory = None,
    seed: options.Seed = 1,
    out: tracing.Outputs = None,
    as_json: options.Json = False,
) -> None:
    """Screen all states of a model for those that carry the answer (attribution patching).

    One forward and one backward pass estimate the effect of exchanging each state; the strongest, and some of the
    others at random, are then exchanged one by one for exact numbers, and the output says which numbers are which.
    """
    tracing.check_question(prompt, subject, answer, foil)

    from rome_engine.report.screen_saving import SCREEN_SUFFIXES, save_screen
    from rome_engine.report.screen_table import screen_table
    from rome_engine.trace.screen import DEFAULT, check, screen

    files = output.checked(out, SCREEN_SUFFIXES, model.name, subjects)
    settings = tracing.settings(
        kinds=kind,
        windows=window or list(DEFAULT.windows),
        noise=[noise],
        subjects=subjects,
        severed=None,
        tokens=tokens,
        memory=memory,
        default_kinds=DEFAULT.kinds,
        samples=samples,
        seed=seed,
        direction=direction,
        engine=engine,
        bos=bos,
    )
    check(settings, metric, foil, top, random, share)
    loaded = model.load()
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
            share=share,
            progress=tick,
        )
    for path in files:
        save_screen(found, path)
    if as_json:
        output.emit(found.to_dict())
    else:
        output.stdout().print(screen_table(found))
    output.written(*files)
