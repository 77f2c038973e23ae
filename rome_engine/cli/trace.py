"""`rome-engine trace`: which states carry a fact."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from rome_engine.cli import options, output, tracing
from rome_engine.cli.loading import Source, loads
from rome_engine.errors import TraceError


@loads(split=True)
def command(
    prompt: options.Prompt,
    subject: options.Subject,
    model: Source = Source(),
    kind: tracing.Kinds = None,
    window: tracing.Windows = None,
    samples: tracing.Samples = 10,
    noise: tracing.Noise = None,
    subjects: tracing.Subjects = None,
    direction: tracing.Direction = "restore",
    sever: tracing.Sever = None,
    tokens: tracing.Tokens = "all",
    answer: tracing.Answer = None,
    foil: tracing.Foil = None,
    metric: tracing.ShownMetric = "probability",
    preset: Annotated[
        Literal["rome", "rome-severed"] | None,
        typer.Option(
            metavar="NAME",
            help="rome: exactly as in Meng et al. 2022. rome-severed: their modified graphs, the last subject token's "
            "states restored with its later MLPs, or attentions, held at their corrupted values.",
        ),
    ] = None,
    engine: tracing.Engine = "fast",
    bos: tracing.BosPolicy = "auto",
    seed: options.Seed = 1,
    memory: tracing.Memory = None,
    out: tracing.Outputs = None,
    as_json: options.Json = False,
) -> None:
    """Show which states of a model carry the answer to a prompt.

    Its subject is blurred with noise, states are restored one by one, and the map shows which bring the answer back.
    """
    tracing.check_question(prompt, subject, answer, foil)

    from rome_engine import report
    from rome_engine.trace import trace_maps
    from rome_engine.trace.agreement import agreement

    files = output.checked(out, report.SUFFIXES, model.name, subjects)
    settings = tracing.settings(
        kinds=kind,
        windows=window,
        noise=noise,
        subjects=subjects,
        severed=sever,
        tokens=tokens,
        memory=memory,
        samples=samples,
        direction=direction,
        preset=preset,
        engine=engine,
        bos=bos,
        seed=seed,
    )
    if metric == "logit_difference" and foil is None:
        raise TraceError("the metric logit_difference compares with a wrong answer: name one with --foil")
    loaded = model.load()
    with output.progress("tracing") as tick:
        traces = trace_maps(loaded, prompt, subject, settings, answer=answer, foil=foil, progress=tick)
    shown = [trace.of(metric) for trace in traces]
    for path in files:
        report.save(shown, path)
    if as_json:
        output.emit(_record([trace.to_dict() for trace in shown], agreement(shown)))
    else:
        output.stdout().print(report.heat_maps(shown))
    output.written(*files)


def _record(records: list[dict[str, Any]], agreements: list[dict[str, Any]]) -> dict[str, Any]:
    if len(records) == 1:
        return records[0]
    return {"traces": records, **({"agreement": agreements} if agreements else {})}
