"""A logit lens as a page: a grid of layers and tokens, what each cell would say, and where the answers stand."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rome_engine.report.colour import ramp, rgb
from rome_engine.report.page import Custom, Table, Text, embedded, page, resource
from rome_engine.report.reading import number, visible
from rome_engine.trace.lens import Lens

STEPS = 24
CAVEAT = (
    "The lens reads a state as if it were the last one. Early layers may write in a form that the unembedding does not "
    "read: that an answer is not seen does not mean that it is not there (Belrose et al. 2023)."
)


@dataclass(frozen=True)
class LensGrid(Custom):
    """The interactive grid of one lens."""

    lens: Lens
    template: ClassVar[str] = "lens.html.j2"

    @classmethod
    def style(cls) -> str:
        """The grid's style sheet with its colours, for a light and a dark ground."""
        dark = "\n".join(_rules(dark=True))
        return "\n".join(
            ("", resource("lens.css"), *_rules(dark=False), f"@media (prefers-color-scheme: dark) {{\n{dark}\n}}")
        )

    @classmethod
    def script(cls) -> str:
        """The grid's script."""
        return "\n" + resource("lens.js")

    @property
    def names(self) -> list[str]:
        """The layers' names."""
        return [layer_name(layer) for layer in self.lens.layers]

    @property
    def labels(self) -> list[str]:
        """The tokens' labels."""
        return [visible(text) for text in self.lens.tokens]

    @property
    def modes(self) -> list[dict[str, Any]]:
        """What the grid can show: a name, the cells' texts and colours (steps of the scale), and the scale's ends."""
        lens = self.lens
        tops = [[visible(text) for text in row] for row in lens.top_texts[..., 0].tolist()]
        modes = [_mode("Top token", tops, lens.top_probabilities[..., 0], ("probability 0", "1"))]
        widest = float(lens.entropy.max())
        for answer in lens.answers:
            name = visible(answer.token)
            shown = [[number(value) for value in row] for row in answer.probability.tolist()]
            modes.append(_mode(f"p({name})", shown, answer.probability, ("probability 0", "1")))
            worst = int(answer.rank.max())
            scale = 1 - np.log(answer.rank) / max(log(worst), 1e-9)
            modes.append(_mode(f"Rank of {name}", answer.rank.astype(str).tolist(), scale, (f"rank {worst}", "1")))
        bits = [[f"{value:.1f}" for value in row] for row in lens.entropy.tolist()]
        modes.append(_mode("Entropy", bits, lens.entropy / max(widest, 1e-9), ("0", f"{widest:.1f} nats")))
        return modes

    @property
    def tips(self) -> list[list[str]]:
        """What is told of each cell."""
        return [
            [self._tip(row, position) for position in range(len(self.lens.tokens))]
            for row in range(len(self.lens.layers))
        ]

    @property
    def data(self) -> str:
        """What the grid's script needs, as JSON that can stand in the page."""
        return embedded({"modes": self.modes, "lens": self.lens.to_dict()})

    def _tip(self, row: int, position: int) -> str:
        lens = self.lens
        likeliest = zip(lens.top_texts[row, position], lens.top_probabilities[row, position].tolist(), strict=True)
        return "\n".join(
            (
                f"{self.names[row]}, after “{self.labels[position]}”",
                *(f"{number(value)}  {visible(text)}" for text, value in likeliest),
                f"entropy {lens.entropy[row, position]:.2f} nats",
                *(
                    f"{visible(answer.token)}: rank {answer.rank[row, position]}, "
                    f"p {number(float(answer.probability[row, position]))}"
                    for answer in lens.answers
                ),
            )
        )


def lens_page(lens: Lens) -> str:
    """The page of one lens. Raises StorageError where jinja2 is not installed."""
    what = (
        "Each cell shows the likeliest next token after one layer at one token: the residual stream there went through "
        "the final norm and the unembedding as if it were the last one (nostalgebraist 2020). The row “embed” is what "
        "the first layer is given, the last row is what the model says."
    )
    fields = [(name, _shown(value)) for name, value in lens.provenance.items()]
    return page(
        f"Logit lens: {lens.prompt}",
        [
            Text("What was done", [what, CAVEAT]),
            LensGrid("What each layer would say", lens),
            _answers(lens),
            Table("Provenance", ("Field", "Value"), fields),
        ],
    )


def layer_name(layer: int) -> str:
    """A layer's name in a view: -1 is what the first one is given."""
    return "embed" if layer < 0 else f"layer {layer}"


def _answers(lens: Lens) -> Table:
    """Rank and probability of each answer at the last token, layer by layer."""
    columns = ["Layer"]
    for answer in lens.answers:
        columns += [f"Rank of {visible(answer.token)}", f"p({visible(answer.token)})"]
    rows: list[list[str | float | int]] = []
    for row, layer in enumerate(lens.layers):
        cells: list[str | float | int] = [layer_name(layer)]
        for answer in lens.answers:
            cells += [int(answer.rank[row, -1]), float(answer.probability[row, -1])]
        rows.append(cells)
    return Table("The answers at the last token", columns, rows, note="Rank 1 is the likeliest token.")


def _mode(name: str, texts: list[list[str]], scale: NDArray[np.floating[Any]], ends: tuple[str, str]) -> dict[str, Any]:
    steps = np.clip(np.round(scale * (STEPS - 1)), 0, STEPS - 1).astype(int)
    return {"name": name, "texts": texts, "steps": steps.tolist(), "ends": ends}


def _rules(*, dark: bool) -> list[str]:
    """One CSS rule a step: the ground's colour, and the ink that is read best on it."""
    return [
        f".s{step} {{ background: {colour}; color: {ink(colour)}; }}"
        for step, colour in enumerate(ramp("hidden", STEPS, dark=dark))
    ]


def ink(ground: str) -> str:
    """Black or white, whichever stands out more on this colour (contrast as in WCAG 2)."""
    red, green, blue = (_light(channel / 255) for channel in rgb(ground))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#ffffff" if luminance < 0.179 else "#000000"


def _light(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)


def _shown(value: Any) -> str | float | int | bool | None:
    return value if value is None or isinstance(value, (str, float, int, bool)) else str(value)
