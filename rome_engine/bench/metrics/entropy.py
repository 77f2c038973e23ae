"""Generation entropy: how little generated text repeats itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum, log2

from rome_engine.bench.asks import Answers, Ask
from rome_engine.bench.metrics import openings
from rome_engine.bench.metrics.shared import mean
from rome_engine.bench.record import Record

_CLITIC = r"'(?:s|m|d|re|ve|ll)\b"
_WORD = re.compile(
    rf"""(?:[^\W\d_]\.){{2,}}                     # U.S.
    | n't\b | {_CLITIC}                           # what is left of didn't, she'll
    | \w+?(?=n't\b)                               # did
    | \w+(?: (?:[-./]|(?!{_CLITIC})')\w+          # well-known, and/or, O'Brien
           | [,:](?=\d)\w+ )*                     # 3,000
    | \.{{3}} | -- | [^\w\s]                      # each other mark by itself""",
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True)
class GenerationEntropy:
    """Mean over generations of ½(⅔·H₂ + 4⁄3·H₃) × 100, H_n the entropy in bits of a text's n-grams of words.

    The opening's words count, and marks count as words, as in Meng et al. 2022 (GE; 621.9 is 6.219 bits). They
    tokenise with NLTK; `words` follows the same Treebank rules but for rare cases. A text without n-grams has H_n = 0.
    None where the record has no openings.
    """

    name: str = "ge@1"
    higher: bool = True
    unit: str = "bits × 100"

    def asks(self, record: Record) -> Iterable[Ask]:
        """Sampled text after each opening."""
        return openings.asked(record)

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The mean over the generations."""
        return mean(100 * _weighted(words(text)) for text in openings.texts(record, after))


def words(text: str) -> list[str]:
    """The text's word tokens: clitics apart (did n't, she 'll), marks apart, numbers and hyphenated words whole."""
    return _WORD.findall(text)


def _weighted(tokens: Sequence[str]) -> float:
    return (2 / 3 * _entropy(tokens, 2) + 4 / 3 * _entropy(tokens, 3)) / 2


def _entropy(tokens: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
    total = counts.total()
    return fsum(count / total * log2(total / count) for count in counts.values())


METRICS = (GenerationEntropy(),)
