"""Many maps of single heads as one: heads by layers, at the token where some head matters most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rome_engine.report.panel import Panel, trace_panel
from rome_engine.report.reading import MISSING, asked, labels, limits, too_small
from rome_engine.trace.average_map import FALLING
from rome_engine.trace.result import Trace

MOST_HEADS = 6
"""More maps of heads than these are drawn as one."""


def head_groups(traces: Sequence[Trace]) -> list[list[Trace]]:
    """The maps of heads that differ in the head alone, where they are more than MOST_HEADS."""
    groups: dict[tuple[object, ...], list[Trace]] = {}
    for one in traces:
        if one.kind == "head":
            key = (one.prompt, one.subject, one.answer, one.corruption, one.severed, one.direction, one.metric)
            groups.setdefault(key, []).append(one)
    return [group for group in groups.values() if len({one.head for one in group}) > MOST_HEADS]


def head_panel(group: Sequence[Trace], companions: Sequence[Trace] = ()) -> Panel:
    """Heads by layers, at the token where the strongest cell of any head is."""
    group = sorted(group, key=lambda one: one.head or 0)
    first = group[0]
    orientation = -1 if first.metric in FALLING else 1
    strength = orientation * np.stack([one.indirect_effect for one in group])  # (heads, tokens, layers)
    finite = np.where(np.isfinite(strength), strength, -np.inf).max(axis=(0, 2))  # (tokens,)
    token = int(finite.argmax())
    label = labels(first)[token] if np.isfinite(finite[token]) else MISSING
    ends = [limits(one) for one in group]
    plain = trace_panel(first, companions)
    verb, done = ("Restoring", "restored") if first.direction == "restore" else ("Corrupting", "corrupted")
    others = len(asked(first)) - 1
    return replace(
        plain,
        name="Heads",
        heading=f"{verb} one head of one layer at “{label}”",
        caption=f"Heads {done} at “{label}”",
        rows=tuple(f"head {one.head}" for one in group),
        bold=(False,) * len(group),
        scores=np.stack([one.scores[token] for one in group]),
        bottom=min(low for low, _ in ends),
        top=max(high for _, high in ends),
        warning=too_small(first),
        unit="head",
        notes=(
            f"Shown at token {token}, “{label}”, where the strongest cell of any head is"
            + (f"; this picture leaves out the other {others} tokens." if others else "."),
        ),
    )
