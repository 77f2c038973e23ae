"""`rome-engine trace`: which states carry a fact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rome_engine import report
from rome_engine.cli import output
from rome_engine.cli.loading import load
from rome_engine.facts import template
from rome_engine.files import suffix_among
from rome_engine.trace import trace_kinds


def command(
    prompt: Annotated[str, typer.Argument(help="The prompt; `{}` may mark the subject's place.")],
    subject: Annotated[str, typer.Option("--subject", "-s", help="The words the fact is about, as in the prompt.")],
    model: output.Model = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="State to restore: hidden, mlp or attn. May be given several times.")
    ] = None,
    window: Annotated[int, typer.Option(help="Layers restored together, for mlp and attn.")] = 10,
    samples: Annotated[int, typer.Option(help="Corrupted rows to average over.")] = 10,
    noise: Annotated[str, typer.Option(help="3s: three standard deviations of the embeddings. 0.35: σ itself.")] = "3s",
    preset: Annotated[str | None, typer.Option(help="rome: exactly the procedure of Meng et al. 2022.")] = None,
    engine: Annotated[str, typer.Option(help="fast, or reference: one forward pass a cell.")] = "fast",
    bos: Annotated[
        str,
        typer.Option(
            help="Document-start token: auto puts one before a subject that begins the prompt; always; never."
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 1,
    out: Annotated[Path | None, typer.Option(help="File to write: .html, .png, .svg, .pdf or .json.")] = None,
    as_json: output.Json = False,
    dtype: output.Dtype = "auto",
    device: output.Device = None,
    revision: output.Revision = None,
    trust_remote_code: output.TrustRemoteCode = False,
) -> None:
    """Trace a prompt: corrupt its subject with noise, restore states one by one, see which bring the answer back."""
    if out is not None:
        suffix_among(out, report.SUFFIXES)
        output.check_writable(out)
    template(prompt, subject)  # a subject that is not there is said before the model is loaded
    loaded = load(model, dtype, device, revision, trust_remote_code)
    with output.progress("tracing") as tick:
        traces = trace_kinds(
            loaded,
            prompt,
            subject,
            kinds=kind or ["hidden"],
            window=window,
            samples=samples,
            noise=noise,
            preset=preset,  # type: ignore[arg-type]
            engine=engine,  # type: ignore[arg-type]
            bos=bos,  # type: ignore[arg-type]
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
    if out is not None:
        output.stderr().print(f"written: {out}", highlight=False)
