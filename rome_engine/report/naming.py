"""Names of maps: what was exchanged, in which graph, under which corruption and in which metric."""

from __future__ import annotations

from collections.abc import Sequence

from rome_engine.report.reading import visible
from rome_engine.trace.average_map import AverageMap
from rome_engine.trace.result import Trace

Mapped = Trace | AverageMap

NAMES = {
    "hidden": "Hidden state",
    "mlp": "MLP",
    "attn": "Attention",
    "pre": "Layer input",
    "mid": "State after attention",
}
STATES = {
    "hidden": "the hidden state",
    "mlp": "the MLP output",
    "attn": "the attention output",
    "pre": "the input",
    "mid": "the state between attention and MLP",
}
SEVERED = {"": "whole model", "mlp": "MLP severed", "attn": "attention severed"}
NOISES = {
    "gaussian": "Gaussian noise",
    "uniform": "uniform noise",
    "covariance": "covariance-matched noise",
    "replace": "replaced by noise",
}
USUAL = ("gaussian", "gaussian:3s")
MEASURES = {
    "probability": "Probability",
    "log_probability": "Log-probability",
    "logit_difference": "Logit difference",
    "kl": "KL divergence",
    "rank": "Rank",
}


def short_name(one: Mapped) -> str:
    """The kind of state, or the head."""
    return f"Head {one.head}" if one.kind == "head" else NAMES.get(one.kind, one.kind)


def severed_name(text: str) -> str:
    """A graph in words."""
    return SEVERED.get(text, f"{text} severed")


def corruption_name(text: str) -> str:
    """A corruption in words."""
    kind, _, rest = text.partition(":")
    if kind == "swap":
        return f"subject swapped for {rest}" if rest else "subject swapped"
    return f"{NOISES.get(kind, kind)} {rest}".strip()


def corrupted_by(one: Mapped) -> str:
    """A map's corruption in words, with the subject that a trace has found for a swap."""
    found = one.provenance.get("counterfactual") if isinstance(one, Trace) and one.corruption == "swap" else None
    return corruption_name(f"swap:{found}" if found else one.corruption)


def window_name(one: Mapped) -> str:
    """The window, or nothing where layers are exchanged one by one."""
    return "" if one.window == 1 else f"windows of {one.window} layers"


def heading(one: Mapped) -> str:
    """What was exchanged, in words; `qualifiers` say the rest."""
    verb = "Restoring" if one.direction == "restore" else "Corrupting"
    state = f"head {one.head}" if one.kind == "head" else STATES.get(one.kind, f"the {one.kind}")
    where = "of one layer" if one.window == 1 else f"in {window_name(one)}"
    return f"{verb} {state} {where}"


def caption(one: Mapped) -> str:
    """What was exchanged, as a figure's title."""
    verb = "restored" if one.direction == "restore" else "corrupted"
    return ", ".join(filter(None, (f"{short_name(one)} {verb}", window_name(one))))


def layer_axis(one: Mapped) -> str:
    """The name of the axis of layers."""
    verb = "restored" if one.direction == "restore" else "corrupted"
    return f"{verb.capitalize()} layer" if one.window == 1 else f"Centre of the {verb} layers"


def measure(trace: Trace) -> str:
    """What a score is, as an axis's label."""
    answer = visible(trace.answer)
    match trace.metric:
        case "probability":
            return f"p({answer})"
        case "log_probability":
            return f"log p({answer})"
        case "logit_difference":
            return f"logit difference, {answer} − {visible(trace.foil or 'foil')}"
        case "kl":
            return "KL from the clean run (nats)"
        case "rank":
            return f"rank of {answer}"
    return trace.metric


def effect_name(metric: str) -> str:
    """What an averaged effect is, as an axis's label."""
    return {
        "probability": "Effect on p(answer)",
        "log_probability": "Effect on log p(answer)",
        "logit_difference": "Effect on the logit difference",
        "kl": "Effect on KL (nats)",
        "rank": "Effect on the answer's rank",
    }.get(metric, f"Effect on {metric}")


def qualifiers(one: Mapped, companions: Sequence[Mapped], *, unusual: bool = False) -> list[str]:
    """What tells a map from its companions beside its short name; with `unusual` also what is not the usual."""
    found = []
    own = [other for other in companions if short_name(other) == short_name(one)]
    if len({other.window for other in own}) > 1:
        found.append("window of 1 layer" if one.window == 1 else window_name(one))
    if _vary(companions, "severed") or (unusual and one.severed):
        found.append(severed_name(one.severed))
    if _vary(companions, "corruption") or (unusual and one.corruption not in USUAL):
        found.append(corrupted_by(one))
    if _vary(companions, "direction"):
        found.append("restored" if one.direction == "restore" else "corrupted")
    if _vary(companions, "metric"):
        found.append(MEASURES.get(one.metric, one.metric).lower())
    return found


def map_names(maps: Sequence[Mapped]) -> list[str]:
    """A short name for each map that no other has; those that nothing tells apart are numbered."""
    names = [", ".join((short_name(one), *qualifiers(one, maps))) for one in maps]
    return [
        name + (f" {names[: place + 1].count(name)}" if names.count(name) > 1 else "")
        for place, name in enumerate(names)
    ]


def _vary(maps: Sequence[Mapped], field: str) -> bool:
    return len({getattr(one, field) for one in maps}) > 1
