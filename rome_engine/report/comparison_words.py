"""How figures of runs are named and written, the same in the terminal, in Markdown and on pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

from rome_engine.bench.comparison import Comparison
from rome_engine.bench.figures import Figure, base
from rome_engine.bench.pairs import Pair
from rome_engine.bench.statistics import RESAMPLES, Estimate
from rome_engine.report.reading import MISSING, number

BLANK = "\u00a0"
"""Does not break, so that an interval stays on one line."""
LESS = " − "
SHORT = 2
"""Names of so many letters are the field's initials: ES, NM, S."""
HEADLINE = ("s", "es", "ps", "ns", "free_em", "multihop", "singlehop", "portability", "free_portability")
"""Where the model answers freely much less succeeds (Yang et al. 2025): that figure stands beside the forced ones."""
WITH_S = (*HEADLINE[:5], "free_begins", *HEADLINE[5:])
"""Prompts that are sentences to go on are answered in the first words, and the sentence then goes on."""
WITHOUT_S = ("zsre_efficacy", "zsre_paraphrase", "zsre_specificity", "locality", "free_pem")
"""What sets are about that have no neighbourhood and so no S."""
FEW, COLUMNS = 5, 8
"""So few figures all stand in the leaderboard, and so many at most."""


def figure_name(figure: Figure, among: Sequence[Figure]) -> str:
    """Its name; with the version where another version stands beside it."""
    name = base(figure.name)
    shown = name.upper() if len(name) <= SHORT else name
    several = sum(base(one.name) == name for one in among) > 1
    return f"{shown}@{figure.name.partition('@')[2]}" if several else shown


def headline(comparison: Comparison) -> list[Figure]:
    """The figures of the leaderboard: all where they are few, else those that a set is about or, without, the first."""
    if len(comparison.figures) <= FEW:
        return list(comparison.figures)
    bases = {base(one.name) for one in comparison.figures}
    order = WITH_S if "s" in bases else (*HEADLINE, *WITHOUT_S)
    found = [one for name in order for one in comparison.figures if base(one.name) == name]
    return (found or list(comparison.figures))[:COLUMNS]


def shortened(names: Sequence[str], letters: int) -> dict[str, str]:
    """Names in so many letters: of those that are too long what all begin and end with goes first, then the middle."""
    found = {name: name for name in names}
    longer = [name for name in names if len(name) > letters]
    head, tail = _shared(longer), _shared([name[::-1] for name in longer])
    tail = min([tail, *(len(name) - head for name in longer)])
    for name in longer:
        own = name[head : len(name) - tail]
        own = f"{'…' * bool(head)}{own}{'…' * bool(tail)}"
        kept = letters - 1
        found[name] = own if len(own) <= letters else f"{own[: kept - kept // 2]}…{own[len(own) - kept // 2 :]}"
    return found


def _shared(names: Sequence[str]) -> int:
    """How many letters several names begin with, in whole words."""
    if len(names) < 2:
        return 0
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return len(re.sub(r"[^-_/. ]*$", "", "".join(letters[0] for letters in same)))


def scaled(value: float, figure: Figure, *, signed: bool = False) -> str:
    """A value of the figure: shares in per cent, others as they are."""
    if not figure.share:
        return number(value, signed=signed)
    shown = f"{abs(100 * value):.1f}"
    sign = "−" if value < 0 else "+" if signed and value > 0 else ""
    return (sign if float(shown) else "") + shown


def estimated(found: Estimate, figure: Figure, *, signed: bool = False) -> str:
    """A value with its interval, as far as there are any."""
    if found.value is None:
        return MISSING
    value = scaled(found.value, figure, signed=signed)
    reach = bounds(found, figure, signed=signed)
    return value if reach == MISSING else f"{value} {reach}"


def bounds(found: Estimate, figure: Figure, *, signed: bool = False) -> str:
    """The interval; a dash where there is none."""
    if found.low is None or found.high is None:
        return MISSING
    return f"[{scaled(found.low, figure, signed=signed)},{BLANK}{scaled(found.high, figure, signed=signed)}]"


def unit(figure: Figure) -> str:
    """Of what is written."""
    return "%" if figure.share else figure.unit or ""


def p_value(p: float | None) -> str:
    """A p value; a very small one as a bound."""
    if p is None:
        return MISSING
    return f"<{BLANK}0.001" if p < 0.001 else f"{p:.3f}"


def effect_size(pair: Pair) -> str:
    """How large a pair's difference is, in its own unit, with the discordant records."""
    found = pair.effect
    if found is None or found.value is None:
        return MISSING
    counts = "" if found.first_only is None else f" ({found.first_only}:{found.second_only})"
    return f"{found.name} {number(found.value, signed=True)}{counts}"


def caption(comparison: Comparison) -> list[str]:
    """What was compared and how, and what a reader must know first."""
    several = len(comparison.entries)
    first = next(iter(comparison.about.values()))
    data = first["configuration"]["data"]
    source = data.get("name") or f"data {str(data['sha256'])[:12]}…"
    return [
        f"{several} run{'' if several == 1 else 's'} on {source}. {_measured(comparison)}",
        f"Intervals are 95 %: BCa bootstrap over records ({RESAMPLES} draws, seed {comparison.seed}); where every "
        "record succeeds, or none does, Clopper and Pearson's; of differences of figures of 0 and 1, Newcombe's for "
        "paired shares. Before is the untouched model on the records that the run has done.",
        *comparison.notes,
    ]


def _measured(comparison: Comparison) -> str:
    names = ", ".join(one.name for one in comparison.figures)
    return f"Metrics: {names}." if names else "No record has a figure."
