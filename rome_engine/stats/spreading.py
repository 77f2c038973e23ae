"""Batches of a corpus run by the workers of a Ray cluster, and summed there; the driver alone adds up and writes.

The driver reads the corpus, runs the first batch, and takes in the workers' sums in the batches' order: the moments are
to the last bit those of one process. A batch's answer is d (d + 1) / 2 float64 a layer: 9 MB at d = 1536, but 1 GB at
16384, where shards on machines of their own (`collect_shard`) cost less.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from jaxtyping import Bool, Float
from torch import Tensor

from rome_engine.cluster import Cluster, Pool
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replica import Replica
from rome_engine.stats.batches import Batch, pass_keys
from rome_engine.stats.collect import Gather
from rome_engine.stats.collection import Sums
from rome_engine.stats.layer_keys import entering
from rome_engine.stats.provenance import Provenance
from rome_engine.stats.second_moment import PIECE, SecondMoment


def gatherer(cluster: Cluster, replica: Replica) -> Gather:
    """The `gather` of `collect` and `moments`: workers that are there while batches are gathered.

    What it gives raises ClusterError as `Pool` does, and StatisticsError for keys that are not finite.
    """
    return partial(_gather, cluster, replica)


def _gather(
    cluster: Cluster, replica: Replica, about: Mapping[int, Provenance], batches: Iterable[Batch]
) -> Generator[Sums, None, None]:
    with Pool[Batch, Sums](cluster, _Making(replica, dict(about)), replica.gpus) as pool:
        yield from pool.in_order(batches)


@dataclass(frozen=True, eq=False)
class _Making:
    """All that a worker is made of."""

    replica: Replica
    about: Mapping[int, Provenance]

    def __call__(self) -> _Working:
        return _Working(self.replica(), self.about)


@dataclass(frozen=True, eq=False)
class _Working:
    """What a worker does with a batch."""

    model: LanguageModel
    about: Mapping[int, Provenance]

    def __call__(self, batch: Batch) -> Sums:
        sums: dict[int, list[tuple[Tensor, int]]] = {layer: [] for layer in self.about}
        pass_keys(self.model, {layer: partial(self._take, sums[layer], layer) for layer in sums}, batch)
        return sums

    def _take(
        self,
        sums: list[tuple[Tensor, int]],
        layer: int,
        keys: Float[Tensor, "rows tokens d_mlp"],
        counted: Bool[Tensor, "rows tokens"],
    ) -> None:
        about = self.about[layer]
        chosen = entering(keys, counted, about.first_token_left_out)
        for begin in range(0, len(chosen), PIECE):
            moment = SecondMoment(chosen.shape[1], about)
            moment.update(chosen[begin : begin + PIECE])
            total = moment.packed_sum()
            if total is not None:
                sums.append((total, moment.count))
