"""Portability: what follows from the edited fact, over all kinds and by the kinds that data sets tell apart.

As KnowEdit reports it: token accuracy of the first answer. RippleEdits' authors look for a name of every answer in
generated text instead; `free_portability` of `free` generates too, and takes the first words.
"""

from __future__ import annotations

from rome_engine.bench.metrics.zsre import TokenAccuracy

KINDS = ("subject_aliasing", "reasoning", "logical_generalization", "compositionality_i", "compositionality_ii")
"""Of KnowEdit (the first three) and RippleEdits."""

METRICS = (
    TokenAccuracy("portability@1", "portability"),
    *(TokenAccuracy(f"portability_{kind}@1", "portability", kind) for kind in KINDS),
)
