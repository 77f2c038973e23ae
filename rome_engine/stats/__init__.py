"""Second moments of a model's keys over ordinary text: collected, merged, stored by content, solved with."""

from rome_engine.stats.collect import collect, collect_shard
from rome_engine.stats.convergence import Convergence
from rome_engine.stats.corpus import Corpus
from rome_engine.stats.imported import imported
from rome_engine.stats.merge import merge
from rome_engine.stats.provenance import Provenance, Sampling
from rome_engine.stats.second_moment import SecondMoment
from rome_engine.stats.shard import Shard
from rome_engine.stats.store import keep, moments, stored, wanted_keys

__all__ = [
    "Convergence",
    "Corpus",
    "Provenance",
    "Sampling",
    "SecondMoment",
    "Shard",
    "collect",
    "collect_shard",
    "imported",
    "keep",
    "merge",
    "moments",
    "stored",
    "wanted_keys",
]
