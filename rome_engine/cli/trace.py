"""`rome-engine trace`: which states carry a fact."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from rome_engine.cli import options, output
from rome_engine.cli.loading import load
from rome_engine.facts import Fact


class Kind(StrEnum):
    """What can be restored; a list of options takes no Literal."""

    hidden = "hidden"
    mlp = "mlp"
    attn = "attn"


def command(
    prompt: options.Prompt,
    subject: options.Subject,
    model: options.Model = None,
    kind: Annotated[
        list[Kind] | None,
        typer.Option(
            metavar="KIND",
            help="What to restore: hidden (all that a layer passes on), mlp or attn (what that part of a layer adds). "
            "Give it several times for several maps. Without it: hidden.",
        ),
    ] = None,
    window: Annotated[int, typer.Option(metavar="N", min=1, help="Layers restored together, for mlp and attn.")] = 10,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Noisy copies of the prompt to average over.")] = 10,
    noise: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="How strong the noise on the subject is: 3s is three times the spread of the model's embeddings, "
            "0.35 the noise's standard deviation itself.",
        ),
    ] = "3s",
    preset: Annotated[
        Literal["rome"] | None, typer.Option(metavar="NAME", help="rome: exactly as in Meng et al. 2022.")
    ] = None,
    engine: Annotated[
        Literal["fast", "reference"],
        typer.Option(metavar="NAME", help="fast, or reference: slow and simple, to check the fast one with."),
    ] = "fast",
    bos: Annotated[
        Literal["auto", "always", "never"],
        typer.Option(
            metavar="WHEN",
            help="Put a document-start token first: always, never, or auto (where the subject begins the prompt).",
        ),
    ] = "auto",
    seed: options.Seed = 1,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write: .html (interactive), .png, .svg, .pdf or .json."),
    ] = None,
    as_json: options.Json = False,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    revision: options.Revision = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Show which states of a model carry the answer to a prompt.

    Its subject is blurred with noise, states are restored one by one, and the map shows which bring the answer back.
    """
    output.check_text(prompt)
    Fact.of(prompt, subject)  # a subject that is not there is said before the model is loaded
    output.check_writable(out)

    from rome_engine import report
    from rome_engine.files import suffix_among
    from rome_engine.trace import trace_kinds
    from rome_engine.trace.corrupt import Noise

    Noise.parse(noise)
    if out is not None:
        suffix_among(out, report.SUFFIXES)
    loaded = load(model, dtype, device, revision, trust_remote_code)
    with output.progress("tracing") as tick:
        traces = trace_kinds(
            loaded,
            prompt,
            subject,
            kinds=[str(one) for one in dict.fromkeys(kind or [Kind.hidden])],
            window=window,
            samples=samples,
            noise=noise,
            preset=preset,
            engine=engine,
            bos=bos,
            seed=seed,
            progress=tick,
        )
    if out is not None:
        report.save(traces, out)
    if as_json:
        records = [trace.to_dict() for trace in traces]
        output.emit(records[0] if len(records) == 1 else {"traces": records})
    else:
        for trace in traces:
            output.stdout().print(report.heat_map(trace))
    output.written(out)
