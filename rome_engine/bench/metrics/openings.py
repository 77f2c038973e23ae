"""Free text after a record's openings: what fluency and consistency read."""

from __future__ import annotations

import re
import unicodedata
from zlib import crc32

from rome_engine.bench.asks import Answers, Generated
from rome_engine.bench.record import Record

TOKENS = 100
TOP_K = 5


def asked(record: Record) -> list[Generated]:
    """One sampled text for each opening: seeded by opening and place, so that a repeated opening is continued anew.

    The seed is the same for every model and method, and from run to run.
    """
    return [
        Generated(opening, TOKENS, TOP_K, crc32(f"{place} {opening}".encode()))
        for place, opening in enumerate(record.generation)
    ]


def texts(record: Record, answers: Answers) -> list[str]:
    """Openings with what came after them, as Meng et al. read them: in compatibility form (NFKD), without blank lines.

    Their 100 tokens include the opening's, here they come after it: figures that grow with a text's length are a
    little higher here.
    """
    found = (ask.text + answers.generated(ask).text for ask in asked(record))
    return [re.sub(r"\n\n", " ", unicodedata.normalize("NFKD", text)) for text in found]
