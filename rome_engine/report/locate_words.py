"""Locate → edit in words: what was done, what it shows, and never more than its intervals say."""

from __future__ import annotations

from collections.abc import Sequence

from rome_engine.bench.locate_controls import BEST, RANDOM, at_depth, traced_name
from rome_engine.bench.locate_result import SCORES, Control, LocateEdit, Relation
from rome_engine.bench.statistics import Estimate
from rome_engine.report.reading import MISSING, interval, number

SIGNIFICANT = 0.05


def title(found: LocateEdit) -> str:
    """What was compared."""
    return f"Locate → edit: {found.method} on {found.model}"


def shown(found: LocateEdit) -> list[str]:
    """What it shows, a sentence a map and a rule, and what follows from them."""
    relations = [found.relation(one.name, found.score) for one in found.tracing]
    rules = [_control(found, traced_name(one.name)) for one in found.tracing]
    return [
        *(_explained(found, one) for one in relations),
        *(_placed(found, one) for one in rules),
        _conclusion(found, relations, rules),
    ]


def done(found: LocateEdit) -> list[str]:
    """What was done."""
    maps = " and ".join(one.name for one in found.tracing)
    settings = found.provenance["tracing"]
    return [
        f"{len(found.facts)} of {found.given} facts of {found.source or 'a list'} were traced and edited: the model "
        f"answers them right, they were drawn with seed {found.seed}, and their total effect is at least "
        f"{settings['threshold']:g} of probability.",
        f"Tracing: states of the last subject token ({maps}) were restored under Gaussian noise, {settings['samples']} "
        "draws a fact; an effect is how far the answer's probability comes back (Meng et al. 2022).",
        f"Editing: each fact alone, by {found.method}, at each of the layers {', '.join(map(str, found.layers))} (the "
        "last of several), from the untouched model. Rewrite score: how far the new target's probability comes of the "
        "way to 1 (Hase et al. 2023); ES, PS, NS and the rewrite magnitude as in CounterFact.",
        "Intervals are of 95 %, by bootstrap over facts: all layers of a fact are drawn together. For a share that is "
        "0 or 1 in every fact, of which no draw differs, they are those of Clopper and Pearson.",
    ]


def told(one: Estimate, *, signed: bool = False, share: bool = False) -> str:
    """A figure with its interval, or a dash. share: in per cent."""
    if one.value is None:
        return MISSING
    if share:
        ends = "" if one.low is None or one.high is None else f" [{one.low:.1%}, {one.high:.1%}]"
        return f"{one.value:.1%}{ends}"
    ends = "" if one.low is None or one.high is None else f" {interval(one.low, one.high, signed=signed)}"
    return number(one.value, signed=signed) + ends


def p_value(p: float | None) -> str:
    """For people."""
    return MISSING if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def layers_of(control: Control) -> str:
    """The layers that a rule chose, the most frequent ones first."""
    counts = {layer: control.layers.count(layer) for layer in set(control.layers)}
    ranked = sorted(counts, key=lambda layer: (-counts[layer], layer))
    if len(ranked) == 1:
        return str(ranked[0])
    return ", ".join(f"{layer} ({counts[layer]}×)" for layer in ranked[:3]) + (", …" if len(ranked) > 3 else "")


def _explained(found: LocateEdit, one: Relation) -> str:
    name, gain = SCORES[one.score], one.gain
    if gain.value is None:
        return f"The tracing effect of {one.tracing} cannot be related to the {name}: {gain.reason}."
    reach = "no interval" if gain.low is None or gain.high is None else f"95 % {gain.low:.1%} to {gain.high:.1%}"
    verdict = "more than chance would" if _significant(one) else "which chance alone could explain"
    layer = 0.0 if one.r2_layer.value is None else one.r2_layer.value
    return (
        f"Beyond the layer itself, the tracing effect of {one.tracing} explains {gain.value:.1%} of the variance of "
        f"the {name} ({reach}; {gain.n} facts × {len(found.layers)} layers), {verdict} (traces exchanged among facts "
        f"explain {one.chance or 0.0:.1%} on average; p = {p_value(one.p_corrected)}, corrected for "
        f"{len(found.relations)} relations). The layer alone explains {layer:.1%}."
    )


def _placed(found: LocateEdit, control: Control) -> str:
    names = {at_depth(found.depth): f"layer {found.depth}, the fixed depth", BEST: BEST, RANDOM: RANDOM}
    parts = [f"{told(control.differences[name], signed=True)} against {said}" for name, said in names.items()]
    return f"Editing each fact at {control.name} changes the {SCORES[found.score]} by {'; '.join(parts)}."


def _conclusion(found: LocateEdit, relations: Sequence[Relation], rules: Sequence[Control]) -> str:
    better = [one.name for one in rules if all(_above(one.differences[name]) for name in (at_depth(found.depth), BEST))]
    if better:
        return (
            f"On these facts, editing each at {' or '.join(better)} is better than at one layer for all; on other "
            "facts, models or methods it was not measured."
        )
    if any(_significant(one) for one in relations):
        return (
            "Tracing and editing are related here, but no trace is shown to choose a better layer than one layer for "
            "all facts: it does not tell where to edit."
        )
    return "Nothing here shows that a trace tells where to edit: choose the layer by measured edits."


def _significant(one: Relation) -> bool:
    return one.p_corrected is not None and one.p_corrected < SIGNIFICANT


def _above(difference: Estimate) -> bool:
    return difference.low is not None and difference.low > 0


def _control(found: LocateEdit, name: str) -> Control:
    return next(one for one in found.controls if one.name == name)
