"""Second moments of a model's keys over ordinary text: collected, stored by content, solved with."""

from rome_engine.stats.collect import collect
from rome_engine.stats.corpus import Corpus
from rome_engine.stats.provenance import Provenance, Sampling
from rome_engine.stats.second_moment import SecondMoment
from rome_engine.stats.store import moments

__all__ = ["Corpus", "Provenance", "Sampling", "SecondMoment", "collect", "moments"]
