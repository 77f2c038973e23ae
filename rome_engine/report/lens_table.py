"""A logit lens in the terminal: layers down, tokens across; or one token with its likeliest next tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from rome_engine.report.colour import ramp
from rome_engine.report.lens_page import ink, layer_name
from rome_engine.report.reading import number, visible
from rome_engine.trace.lens import Lens

LABEL = 8
NARROWEST, WIDEST = 6, 12


def lens_table(lens: Lens, position: int | None = None) -> RenderableType:
    """The lens as a Rich renderable: the grid of top tokens, or for a position the top tokens of each layer.

    Where the terminal is too narrow for all tokens, the grid shows the last ones and says so. On a colour terminal a
    cell's ground shows the probability. Raises IndexError for a position that the prompt does not have.
    """
    if position is None:
        return _Grid(lens)
    return _token(lens, range(len(lens.tokens))[position])


class _Grid:
    """Chooses what fits when it is drawn: only then is the console known."""

    def __init__(self, lens: Lens) -> None:
        self.lens = lens

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        answers = [f"rank {visible(answer.token)}" for answer in self.lens.answers]
        room = options.max_width - LABEL - sum(min(cell_len(name), 14) + 2 for name in answers)
        shown = max(1, min(len(self.lens.tokens), room // (NARROWEST + 1)))
        width = max(NARROWEST, min(WIDEST, room // shown - 1))
        colour = console.color_system in ("truecolor", "256") and not console.no_color
        yield from _lines(self.lens, shown, width, answers, ramp("hidden", dark=True) if colour else ())


def _lines(
    lens: Lens, shown: int, width: int, answers: list[str], colours: tuple[str, ...]
) -> Iterator[RenderableType]:
    first = len(lens.tokens) - shown
    yield Text.assemble(("Likeliest next token after each layer", "bold"), (f" · {lens.model}", "dim"))
    head = Text(" " * LABEL)
    for text in lens.tokens[first:]:
        head.append(" " + fitted(visible(text), width), "bold")
    for name in answers:
        head.append("  " + fitted(name, min(cell_len(name), 14)), "bold cyan")
    yield head
    for row, layer in enumerate(lens.layers):
        line = Text(fitted(layer_name(layer), LABEL), "dim")
        for position in range(first, len(lens.tokens)):
            line.append(" ")
            text = fitted(visible(str(lens.top_texts[row, position, 0])), width)
            line.append(text, _style(float(lens.top_probabilities[row, position, 0]), colours))
        for answer, name in zip(lens.answers, answers, strict=True):
            line.append("  " + f"{answer.rank[row, -1]}".rjust(min(cell_len(name), 14)), "default")
        yield line
    if first:
        yield Text(
            f"The terminal is too narrow for the first {first} of {len(lens.tokens)} tokens: widen it, choose one with "
            "--token, or write a page with --out.",
            "yellow",
        )
    yield Text("Ranks are those at the last token; 1 is the likeliest.", "dim")


def _style(probability: float, colours: tuple[str, ...]) -> str:
    if not colours:
        return "default"
    ground = colours[int(np.clip(round(probability * (len(colours) - 1)), 0, len(colours) - 1))]
    return f"{ink(ground)} on {ground}"


def _token(lens: Lens, position: int) -> RenderableType:
    """One token: a line a layer, the top tokens with their probabilities, entropy, and the answers."""
    label = visible(lens.tokens[position])
    table = Table(title=Text(f"After token {position}, “{label}” · {lens.model}"), title_justify="left", box=None)
    table.add_column("layer", style="dim")
    table.add_column("likeliest next tokens")
    table.add_column("entropy", justify="right")
    for answer in lens.answers:
        table.add_column(Text(f"rank {visible(answer.token)}"), justify="right")
        table.add_column(Text(f"p({visible(answer.token)})"), justify="right")
    for row, layer in enumerate(lens.layers):
        likeliest = Text(overflow="ellipsis", no_wrap=True)
        for place, text in enumerate(lens.top_texts[row, position]):
            chance = number(float(lens.top_probabilities[row, position, place]))
            likeliest.append(("  " if place else "") + visible(text)).append(f" {chance}", "dim")
        cells: list[RenderableType] = [layer_name(layer), likeliest, f"{lens.entropy[row, position]:.2f}"]
        for answer in lens.answers:
            cells += [str(answer.rank[row, position]), number(float(answer.probability[row, position]))]
        table.add_row(*cells)
    return table


def fitted(text: str, width: int) -> str:
    """The text at exactly this many columns, flush left, cut with an ellipsis."""
    return set_cell_size(text, width - 1) + "…" if cell_len(text) > width else set_cell_size(text, width)
