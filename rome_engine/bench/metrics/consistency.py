"""Reference score: generated text uses the words of texts about things that have the new property."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot, log

from rome_engine.bench.asks import Answers, Ask
from rome_engine.bench.metrics import openings
from rome_engine.bench.record import Record

_WORD = re.compile(r"\b\w\w+\b")


@dataclass(frozen=True)
class ReferenceScore:
    """Cosine of the tf-idf vectors of the joined generations and the joined reference texts, × 100.

    tf: a word's count (words of two letters or more, in lower case). idf = ln((1 + n) / (1 + df)) + 1 over the record's
    n reference texts; a word in none of them has df = 0. Meng et al. 2022 (RS) take df from a corpus of Wikipedia
    snippets that holds all records' references: the figure has the same sense but another scale, and the published
    ones are no anchors for it. None where the record has no references or no openings.
    """

    name: str = "rs@1"
    higher: bool = True
    unit: str = "cosine × 100"

    def asks(self, record: Record) -> Iterable[Ask]:
        """Sampled text after each opening."""
        return openings.asked(record) if record.references else ()

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The cosine; 0 where one side has no words."""
        if not record.references or not record.generation:
            return None
        generated = _words([" ".join(openings.texts(record, after))])
        reference = _words([" ".join(record.references)])
        found_in = Counter(word for text in record.references for word in set(_words([text])))
        idf = {word: log((1 + len(record.references)) / (1 + found_in[word])) + 1 for word in generated | reference}
        return 100 * _cosine(*({word: n * idf[word] for word, n in tf.items()} for tf in (generated, reference)))


def _words(texts: Sequence[str]) -> Counter[str]:
    return Counter(word for text in texts for word in _WORD.findall(text.lower()))


def _cosine(a: dict[str, float], b: dict[str, float]) -> float:
    norms = hypot(*a.values()) * hypot(*b.values())
    return sum(weight * b.get(word, 0.0) for word, weight in a.items()) / norms if norms else 0.0


METRICS = (ReferenceScore(),)
