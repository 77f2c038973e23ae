"""Severed paths and chosen positions, as people write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rome_engine.errors import TraceError
from rome_engine.trace.plan import Pin

HELP = "COMPONENT, COMPONENT@LAYERS or COMPONENT@LAYERS:TOKENS, joined by +, such as mlp, attn@10-20, mlp+head3@5:last"
POSITIONS = ("all", "subject", "first-subject", "last-subject", "after", "last")
_COMPONENTS = ("hidden", "mid", "mlp", "attn")
_PART = re.compile(r"(?P<component>[a-z]+)(?P<head>\d*)(@(?P<layers>[\d,-]+|all))?(:(?P<tokens>[\w,-]+))?$")


@dataclass(frozen=True)
class Severed:
    """A modified graph: parts whose states are held at their values in the run that is patched.

    Each part is a component ("hidden", "mid", "mlp", "attn", "head3"), layers (None: all) and positions ("" for the
    token whose state is exchanged, else what `parse_positions` reads).
    """

    text: str
    parts: tuple[tuple[str, int, tuple[int, ...] | None, str], ...]

    @classmethod
    def parse(cls, text: str) -> Severed:
        """Of "mlp" (the exchanged token's MLPs at all layers), "attn@10-20:last+head3@5" and their like; "" is whole.

        Raises TraceError for anything else.
        """
        parts = []
        for part in (piece.strip() for piece in text.split("+") if text.strip()):
            found = _PART.match(part)
            if found is None or (found["component"] == "head") != bool(found["head"]):
                raise TraceError(f"the severed part {part!r} cannot be read: write {HELP}")
            if found["component"] not in (*_COMPONENTS, "head"):
                raise TraceError(
                    f"there is no component {found['component']!r} to sever: choose {', '.join(_COMPONENTS)} or headN"
                )
            layers = None if found["layers"] in (None, "all") else parse_numbers(found["layers"], "layers")
            tokens = found["tokens"] or ""
            if tokens:
                check_positions(tokens)
            parts.append((found["component"], int(found["head"] or 0), layers, tokens))
        return cls("+".join(piece.strip() for piece in text.split("+")), tuple(parts))

    def pins(self, subject: tuple[int, int], tokens: int, layers: int) -> tuple[Pin, ...]:
        """The pins for one prompt. Raises TraceError for layers or positions that it does not have."""
        found = []
        for component, head, at, places in self.parts:
            if at is not None and max(at) >= layers:
                raise TraceError(f"layer {max(at)} cannot be severed: the model's layers are 0 to {layers - 1}")
            positions = parse_positions(places, subject, tokens) if places else None
            found.append(Pin(component, at, positions, head))
        return tuple(found)


def parse_positions(text: str, subject: tuple[int, int], tokens: int) -> tuple[int, ...]:
    """Positions of a prompt: names of POSITIONS or numbers and ranges such as 3-5, joined by commas.

    Raises TraceError for anything else, and for positions that the prompt does not have.
    """
    begin, end = subject
    named: dict[str, Callable[[], range]] = {
        "all": lambda: range(tokens),
        "subject": lambda: range(begin, end),
        "first-subject": lambda: range(begin, begin + 1),
        "last-subject": lambda: range(end - 1, end),
        "after": lambda: range(end, tokens),
        "last": lambda: range(tokens - 1, tokens),
    }
    found: set[int] = set()
    for piece in text.split(","):
        if piece in named:
            found.update(named[piece]())
        else:
            try:
                found.update(parse_numbers(piece, "tokens"))
            except TraceError as error:
                raise TraceError(
                    f"the tokens {text!r} cannot be read: write numbers such as 3-5,7, or {', '.join(POSITIONS)}"
                ) from error
    if not found:
        raise TraceError(f"the prompt has no tokens {text!r}: its subject ends it; choose {', '.join(POSITIONS)}")
    if max(found) >= tokens:
        raise TraceError(f"the prompt has tokens 0 to {tokens - 1}, and no token {max(found)}")
    return tuple(sorted(found))


def check_positions(text: str) -> None:
    """Say before any prompt is there that positions cannot be read. Raises TraceError."""
    for piece in text.split(","):
        if piece not in POSITIONS:
            parse_positions(piece, (0, 1), 1_000_000)


def parse_numbers(text: str, what: str) -> tuple[int, ...]:
    """Numbers and ranges such as 3-5,7. Raises TraceError for anything else."""
    found: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", piece.strip(), flags=re.ASCII)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise TraceError(f"the {what} {text!r} cannot be read: write numbers and ranges such as 4-8,12")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))
