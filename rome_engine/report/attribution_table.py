"""A direct logit attribution in the terminal: the parts that count most, with bars."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rome_engine.report.reading import number, visible
from rome_engine.trace.attribution import Attribution, Contribution

BAR = 24
NAMES = {
    "embedding": "embedding",
    "attention": "attention",
    "attention_bias": "attention biases",
    "mlp": "MLP",
    "norm_bias": "final norm's bias",
    "unembedding_bias": "unembedding's bias",
}


def attribution_table(found: Attribution, top: int) -> RenderableType:
    """The `top` largest contributions by size, the sum of the others, and how they make the logit."""
    ordered = sorted(found.contributions, key=lambda part: -abs(part.value))
    shown, others = ordered[:top], ordered[top:]
    largest = max((abs(part.value) for part in shown), default=0.0)
    table = Table(box=None)
    table.add_column("part")
    table.add_column("contribution", justify="right")
    table.add_column("", no_wrap=True)
    for part in shown:
        table.add_row(part_name(part), number(part.value, signed=True), _bar(part.value, largest))
    if others:
        left = sum(part.value for part in others)
        table.add_row(Text(f"{len(others)} others", "dim"), number(left, signed=True), "", style="dim")
    table.add_section()
    table.add_row(Text("sum", "bold"), Text(number(found.total, signed=True), "bold"), "")
    return Group(Text(title(found), "bold"), table, Text(closing(found), "dim"))


def title(found: Attribution) -> str:
    """What was attributed, in words."""
    answer = f"“{visible(found.answer)}”"
    what = f"logit of {answer}" if found.foil is None else f"lead of {answer} over “{visible(found.foil)}”"
    return f"What adds to the {what} · {found.model}"


def part_name(part: Contribution) -> str:
    """A part of the model in words."""
    if part.component == "head":
        return f"layer {part.layer} head {part.head}"
    name = NAMES[part.component]
    return name if part.layer is None else f"layer {part.layer} {name}"


def _bar(value: float, largest: float) -> Text:
    length = max(1, round(BAR * abs(value) / largest)) if value and largest else 0
    return Text("█" * length, "green" if value > 0 else "red")


def closing(found: Attribution) -> str:
    """How the contributions make the logit, and in what unit."""
    softcap = found.provenance.get("softcap")
    capped = "" if softcap is None else f", {number(found.capped)} after the model's softcap of {softcap:g}"
    what = "The logit" if found.foil is None else "The difference of the logits"
    return f"{what} is {number(found.logit)}{capped}; {found.residual:+.1e} of it is rounding. Units: logits."
