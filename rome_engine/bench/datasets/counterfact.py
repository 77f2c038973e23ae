"""CounterFact (Meng et al. 2022, arXiv 2202.05262), in its original schema and in the flat one.

The flat schema's "rephrase" prompt is often one of the original's generation prompts: it opens free text here, and
never counts as a paraphrase, so flat files have no PS. Its "locality" prompt is a neighbour only where the answer is
the fact's own, and else left out. The original's attribute prompts, which ask for the new target, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rome_engine.bench.datasets.asked import record_of
from rome_engine.bench.datasets.dataset import Schema
from rome_engine.bench.record import Record
from rome_engine.fact_files import schemas


def record(content: Mapping[str, Any], id: str) -> Record:
    """One case: efficacy, paraphrase and neighbourhood, the two targets rivals, and its openings for free text."""
    return record_of(schemas.fact(content), id)


SCHEMA = Schema("counterfact", ("requested_rewrite", "target_new ground_truth"), record)
