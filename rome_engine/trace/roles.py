"""Token roles: what a position is to its prompt, so that prompts of any length can be averaged (Meng et al. 2022)."""

from __future__ import annotations

ROLES = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
BEFORE = "before the subject"


def role_of(position: int, subject_range: tuple[int, int], tokens: int) -> str:
    """The role of one position. A subject of one token counts as its last, and one that ends the prompt as subject.

    Tokens before the subject have the role BEFORE: nothing there was corrupted, and no map shows anything.
    """
    begin, end = subject_range
    if position < begin:
        return BEFORE
    if begin <= position < end:
        if position == end - 1:
            return ROLES[2]
        return ROLES[0] if position == begin else ROLES[1]
    if position == tokens - 1:
        return ROLES[5]
    return ROLES[3] if position == end else ROLES[4]
