"""Free answers made comparable: where they end, which words they have, and whether they are a given answer."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# Neither an initial (J. K. Rowling, U.S.) nor a title ends a sentence.
_SENTENCE_END = re.compile(r"[!?](?=\s|$)|(?<!\b[^\W\d_])(?<!\b(?:St|Dr|Mr|Ms|Mt|Ft|Jr|Sr))(?<!\bMrs)\.(?=\s|$)")
_STOP = re.compile(r"[!?.](?=\s|$)")
_ARTICLES = frozenset({"a", "an", "the"})


def natural(text: str) -> str:
    """What was said up to where it stops by itself: the end of the first sentence or of the first line with words.

    Yang et al. 2025 stop at a full stop, a line break or the end-of-text token. What the model says before the first
    word (a line break after a question) does not end the answer. Initials and titles end none.
    """
    return _SENTENCE_END.split(_line(text), maxsplit=1)[0].strip()


def _line(text: str) -> str:
    """The first line with words."""
    return text.strip().partition("\n")[0]


def normalise(text: str) -> tuple[str, ...]:
    """The text's words as SQuAD compares them: in lower case, without articles and punctuation (any symbol counts).

    A text of nothing but articles keeps them.
    """
    marks = "".join(char for char in text.lower() if unicodedata.category(char)[0] not in "PS")
    words = tuple(marks.split())
    return tuple(word for word in words if word not in _ARTICLES) or words


def exact(said: str, answers: Iterable[str]) -> bool:
    """Whether what was said, up to a stop, is one of the answers. An answer without words is never said.

    A full stop within or right behind an answer may be taken for an end or not: "No. 1" and "World War I" are answers.
    """
    wanted = {normalise(answer) for answer in answers} - {()}
    line = _line(said)
    ends = (match.start() for match in _STOP.finditer(line))
    return any(normalise(part) in wanted for part in (natural(said), line, *(line[:end] for end in ends)))


def begins(said: str, answers: Iterable[str]) -> bool:
    """Whether what was said begins with the words of one of the answers: "Rome" begins "Rome, Italy", not "Romeo"."""
    words = normalise(_line(said))
    wanted = {normalise(answer) for answer in answers} - {()}
    return any(words[: len(answer)] == answer for answer in wanted)
