"""`rome-engine demo`: the whole job on the embedded model: locate a fact, rewrite it, prove it, undo it, report."""

from __future__ import annotations

import time
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table as Shown

from rome_engine.cli import options, output
from rome_engine.cli.loading import load
from rome_engine.errors import EditError
from rome_engine.facts import Fact

if TYPE_CHECKING:
    from rome_engine import report
    from rome_engine.edit import Edit
    from rome_engine.model.language_model import LanguageModel
    from rome_engine.trace import Trace

FACT = Fact(
    prompt="{} is located in the city of",
    subject="The Eiffel Tower",
    target_true="Paris",
    target_new="Rome",
    paraphrases=("You can find {} in", "To visit {}, you have to travel to"),
    generation=("The Eiffel Tower is", "From the top of the Eiffel Tower you can see"),
)
# What asks the same of others, and what is near: the answers must stay.
NEIGHBOURS = (
    ("The Louvre is located in the city of", "Paris"),
    ("The capital of France is", "Paris"),
    ("The Statue of Liberty is located in the city of", "New York"),
    ("The Kremlin is located in the city of", "Moscow"),
    ("The Acropolis is located in the city of", "Athens"),
    ("The Hagia Sophia is located in the city of", "Istanbul"),
)
WORDS = 30


def command(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The report to write, an HTML page.")] = Path(
        "rome-engine-demo.html"
    ),
    as_json: options.Json = False,
) -> None:
    """Trace, rewrite, check and undo one fact on the embedded model, and write one HTML report of it."""
    output.check_writable(out)

    from rome_engine import report
    from rome_engine.edit import edit_fact
    from rome_engine.trace import CLASSIC, Settings, trace_maps

    began = time.perf_counter()
    console = output.stderr() if as_json else output.stdout()
    model = load(None)
    weights = model.weight_hash()

    console.rule("1 · locate")
    with output.progress("tracing") as tick:
        settings = Settings(kinds=CLASSIC, preset="rome")
        traces = trace_maps(model, FACT.prompt, FACT.subject, settings, progress=tick)
    for trace in traces:
        console.print(report.heat_map(trace))

    console.rule("2 · rewrite")
    with output.progress("editing") as tick:
        edit = edit_fact(model, FACT, progress=lambda step, total, _loss: tick(step, total))
    before = _answers(model)
    with edit.applied(model):
        after = _answers(model)
    restored = model.weight_hash() == weights
    for title, rows in _tables(before, after).items():
        console.print(_shown(title, rows))

    console.rule("3 · undo")
    seconds = time.perf_counter() - began
    console.print(f"the weights are bit for bit what they were (sha256 {weights[:16]}…): {'yes' if restored else 'NO'}")
    sections = _sections(traces, edit, before, after, restored, weights)
    maps = report.Download("trace.json", [trace.to_dict() for trace in traces])
    report.save_page(report.page("The Eiffel Tower, moved to Rome", sections, maps), out)
    console.print(f"report: {out.absolute()}  ({seconds:.0f} s in all)", soft_wrap=True, highlight=False)
    if as_json:
        output.emit(
            {
                "model": model.name,
                "before": before,
                "after": after,
                "weights": weights,
                "restored": restored,
                "layers": sorted(edit.layers),
                "seconds": seconds,
                "report": str(out.absolute()),
            }
        )
    if not restored:
        raise EditError("the weights are not what they were before the edit: please report this")


def _answers(model: LanguageModel) -> dict[str, Any]:
    """Probabilities of both answers where the fact is asked, of the true answer beside it, and free text."""
    assert FACT.target_new is not None and FACT.target_true is not None
    asked = [FACT.text, *(text.replace("{}", FACT.subject) for text in FACT.paraphrases)]
    texts = model.generate([model.tokenize(text) for text in FACT.generation], WORDS)
    return {
        "asked": [
            {
                "prompt": text,
                "old": _probability(model, text, FACT.target_true),
                "new": _probability(model, text, FACT.target_new),
            }
            for text in asked
        ],
        "neighbours": [
            {
                "prompt": text,
                "answer": answer,
                "probability": _probability(model, text, answer),
                "first": _first(model, text),
            }
            for text, answer in NEIGHBOURS
        ],
        "generations": [
            {"prompt": text, "continuation": model.text(ids)} for text, ids in zip(FACT.generation, texts, strict=True)
        ],
    }


def _probability(model: LanguageModel, text: str, answer: str) -> float:
    return exp(model.target_log_probability(model.tokenize(text), model.target_ids(text, answer)))


def _first(model: LanguageModel, text: str) -> str:
    return model.text([int(model.next_token_logits(model.tokenize(text)).argmax())]).strip()


def _tables(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[tuple[str | float, ...]]]:
    """Rows under their titles, the first of each its header."""
    old, new = FACT.target_true, FACT.target_new
    asked: list[tuple[str | float, ...]] = [("asked", f"{old} before", f"{old} after", f"{new} before", f"{new} after")]
    asked += [
        (one["prompt"], one["old"], other["old"], one["new"], other["new"])
        for one, other in zip(before["asked"], after["asked"], strict=True)
    ]
    near: list[tuple[str | float, ...]] = [("neighbour", "answer", "p before", "p after", "first token after")]
    near += [
        (one["prompt"], one["answer"], one["probability"], other["probability"], other["first"])
        for one, other in zip(before["neighbours"], after["neighbours"], strict=True)
    ]
    text: list[tuple[str | float, ...]] = [("opening", "before", "after")]
    text += [
        (one["prompt"], one["continuation"], other["continuation"])
        for one, other in zip(before["generations"], after["generations"], strict=True)
    ]
    return {
        "The prompt and its paraphrases": asked,
        "Neighbours: other landmarks, the same country": near,
        "Free generation": text,
    }


def _shown(title: str, rows: list[tuple[str | float, ...]]) -> Shown:
    table = Shown(
        *(str(name) for name in rows[0]), title=title, title_justify="left", show_lines=title == "Free generation"
    )
    for row in rows[1:]:
        table.add_row(
            *(output.probability(cell) if isinstance(cell, float) else " ".join(cell.split()) for cell in row)
        )
    return table


def _sections(
    traces: list[Trace], edit: Edit, before: dict[str, Any], after: dict[str, Any], restored: bool, weights: str
) -> list[report.Section]:
    from rome_engine import report

    layer, change = next(iter(edit.layers.items()))
    return [
        report.Maps("Where the fact is", traces),
        report.Text(
            "What was changed",
            [
                f"{edit.provenance.method} at layer {layer}: a change of rank {edit.rank} of {change.path}, "
                f"‖Δ‖ = {change.delta_norm:.2f}, {change.delta_norm / change.weight_norm:.1%} of ‖W‖, found in "
                f"{sum(edit.provenance.seconds.values()):.1f} s. The layer is this model's default, measured by how "
                "well edits work there; the maps above do not choose it."
            ],
        ),
        *(
            report.Table(title, [str(name) for name in rows[0]], rows[1:])
            for title, rows in _tables(before, after).items()
        ),
        report.Text(
            "Undone",
            [
                "After the edit was undone the weights were "
                + ("bit for bit" if restored else "NOT")
                + f" what they had been (sha256 {weights})."
            ],
        ),
    ]
