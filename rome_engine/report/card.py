"""The card of an edit: in Markdown what was changed, where, by what, what came of it, and how to use and undo it.

Its head is that of a model card on the Hugging Face Hub, so that it can lie there as README.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from math import exp

from rome_engine.bench.effects import Effect, Text, summary
from rome_engine.bench.nll import Answered
from rome_engine.edit.edit import Edit
from rome_engine.edit.health import Health
from rome_engine.edit.provenance import Provenance
from rome_engine.report.card_use import Form, base, shown, use

FACTS = 20
"""How many facts are shown one by one."""


def edit_card(
    edit: Edit,
    effects: Sequence[Effect],
    health: Health | None = None,
    form: Form | None = "edit",
    path: str = "edit.safetensors",
) -> str:
    """The card of an edit. effects: what it did to its facts; health: what to the model, where that was measured.

    form, path: what the card lies beside and tells to load, such as "merged" at "."; None where nothing is kept.
    """
    about = edit.provenance
    parts = [
        _head(about),
        f"# Edit of {shown(about.model)}: {_named(len(about.facts), 'fact')}\n",
        _changed(effects),
        _means(effects),
        _where(edit),
        _health(health),
        _by_what(about),
        "" if form is None else use(form, about.model, path),
    ]
    return "\n".join(part for part in parts if part)


def _head(about: Provenance) -> str:
    tags = "".join(f"- {tag}\n" for tag in ("model-editing", "rome-engine", about.method))
    return f"---\nbase_model: {json.dumps(base(about.model))}\ntags:\n{tags}---\n"


def _changed(effects: Sequence[Effect]) -> str:
    rows: list[Sequence[str]] = []
    for effect in effects[:FACTS]:
        for text in effect.texts:
            answers = _cell(effect.fact.target_new), _cell(effect.old)
            rows.append((text.kind, _cell(text.text), *answers, *_numbers(text)))
    more = f"\n{len(effects) - FACTS} more facts are in the edit's file.\n" if len(effects) > FACTS else ""
    head = ("", "text", "new answer", "old answer", "p(new) before", "after", "p(old) before", "after")
    note = "Probabilities are geometric means over an answer's tokens.\n"
    return f"## What was changed\n\n{_table(head, rows)}\n{note}{more}"


def _means(effects: Sequence[Effect]) -> str:
    rows = []
    for kind, found in summary(effects).items():
        before, after = found["before"], found["after"]
        if before["texts"]:
            values = (when[name] for name in ("success", "argmax") for when in (before, after))
            rows.append((f"{kind}s ({before['texts']})", *map(_share, values)))
    head = ("texts", "success before", "after", "answered before", "after")
    note = (
        "Success: the new answer is likelier than the old one; for neighbours, which ask of other subjects, the old "
        "one is. Answered: that answer is the likeliest of all.\n"
    )
    return f"## Before and after\n\n{_table(head, rows)}\n{note}"


def _where(edit: Edit) -> str:
    rows = [
        (
            str(layer),
            f"`{change.path}`",
            str(change.left.shape[1]),
            f"{change.delta_norm:.4g}",
            f"{change.delta_norm / change.weight_norm:.2%}",
            "" if change.relative_denominator is None else f"{change.relative_denominator:.3g}",
            f"`{change.weight_sha256[:16]}…`",
        )
        for layer, change in sorted(edit.layers.items())
    ]
    head = ("layer", "weight", "rank", "‖Δ‖", "of ‖W‖", "relative denominator", "sha256 of W")
    return f"## Where\n\n{_table(head, rows)}"


def _health(health: Health | None) -> str:
    if health is None:
        return ""
    rows = [
        ("perplexity of held-out text", f"{health.perplexity_before:.4g}", f"{health.perplexity:.4g}"),
        ("known answers about other subjects", str(health.known), str(health.known - health.lost)),
    ]
    return f"## The rest of the model\n\n{_table(('', 'before', 'after'), rows)}"


def _by_what(about: Provenance) -> str:
    rows = [
        ("method", about.method),
        ("model", f"{shown(about.model)}, {about.dtype}"),
        ("sha256 of the model", f"`{about.model_hash}`"),
        ("contexts", f"`{about.contexts}`" if about.contexts else ""),
        ("second moments", ", ".join(f"layer {layer}: `{key[:16]}…`" for layer, key in about.moments.items())),
        ("seconds", ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in about.seconds.items())),
        ("versions", ", ".join(f"{name} {version}" for name, version in about.versions.items())),
    ]
    settings = json.dumps(about.config, indent=2, ensure_ascii=False)
    return f"## By what\n\n{_table(('', ''), [row for row in rows if row[1]])}\nSettings:\n\n```json\n{settings}\n```\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str | None) -> str:
    """A text as it stands in a table: on one line, and none of it Markdown."""
    plain = " ".join((text or "").split())
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>|#~" else letter for letter in plain)


def _numbers(text: Text) -> tuple[str, ...]:
    return tuple(_probability(answer, which) for which in (0, 1) for answer in (text.before, text.after))


def _probability(answer: Answered, which: int) -> str:
    return f"{exp(-answer.nll[which]):.2g}" if which < len(answer.nll) else ""


def _share(value: float | int | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _named(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
