"""A collection on its way: the sums of all layers so far, kept in a file as a checkpoint or as a finished shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rome_engine.errors import StatisticsError
from rome_engine.stats import sealed
from rome_engine.stats.layer_keys import LayerKeys
from rome_engine.stats.provenance import Provenance
from rome_engine.stats.second_moment import SecondMoment
from rome_engine.stats.shard import WHOLE, Shard

_KIND = "rome_engine.collection"

Sums = Mapping[int, Sequence[tuple[Tensor, int]]]
"""Of each layer, the packed sum and the number of keys of each `PIECE` of a batch; see `SecondMoment.packed_sum`."""


@dataclass(frozen=True)
class Plan:
    """What is collected, and how it is cut into batches: of one plan every sum is the same to the last bit.

    about: the provenance of each layer's moment but for the layer. d: the keys' width.
    """

    about: Provenance
    d: int
    layers: tuple[int, ...]
    batch_tokens: int
    shard: Shard = WHOLE

    @property
    def key(self) -> str:
        """sha256 over all that decides the sums; shards of one collection have different ones."""
        return self._key(self.shard.number)

    @property
    def family(self) -> str:
        """What shards of one collection have in common."""
        return self._key(0)

    def _key(self, number: int) -> str:
        keys = [replace(self.about, layer=layer).key for layer in self.layers]
        return hashlib.sha256(json.dumps([keys, self.batch_tokens, number, self.shard.of]).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a file's header."""
        return {
            "about": self.about.to_dict(),
            "d": self.d,
            "layers": list(self.layers),
            "batch_tokens": self.batch_tokens,
            "shard": str(self.shard),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Plan:
        """The inverse of `to_dict`. Raises ValueError, KeyError, TypeError or StatisticsError for anything else."""
        return cls(
            Provenance.from_dict(values["about"]),
            int(values["d"]),
            tuple(int(layer) for layer in values["layers"]),
            int(values["batch_tokens"]),
            Shard.parse(values["shard"]),
        )


class Collection:
    """The layers' sums so far. batches, tokens: of the sample that were passed over, other shards' too."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.layers = {
            layer: LayerKeys(SecondMoment(plan.d, replace(plan.about, layer=layer))) for layer in plan.layers
        }
        self.batches = 0
        self.tokens = 0
        self.complete = False

    def moments(self) -> dict[int, SecondMoment]:
        """Each layer's moment, with its convergence."""
        return {layer: keys.finished() for layer, keys in self.layers.items()}

    def add(self, sums: Sums) -> None:
        """Take in the keys of a batch that were summed elsewhere, to the bits of those that are summed here."""
        for layer, keys in self.layers.items():
            for total, count in sums[layer]:
                keys.moment.merge(SecondMoment.of_packed(total, self.plan.d, count, keys.moment.provenance))

    def half(self) -> None:
        """Note in every layer where C⁻¹ of its probes points now."""
        for keys in self.layers.values():
            keys.half()

    def merge(self, other: Collection) -> None:
        """Take in another shard's sums."""
        for layer, keys in self.layers.items():
            keys.moment.merge(other.layers[layer].moment)

    def save(self, path: Path) -> None:
        """Write all of it, exactly: whole or not at all. Raises StorageError."""
        tensors: dict[str, Tensor] = {}
        layers: dict[str, Any] = {}
        for layer, keys in self.layers.items():
            moment = keys.moment
            found = {"sum": moment.packed_sum(), "probes": keys.probes, "before": keys.before}
            tensors |= {f"{layer}.{name}": tensor for name, tensor in found.items() if tensor is not None}
            assert moment.provenance is not None
            about = moment.provenance.to_dict()
            layers[str(layer)] = {"provenance": about, "count": moment.count, "keys_before": keys.keys_before}
        header = {
            "plan": self.plan.to_dict(),
            "layers": layers,
            "batches": self.batches,
            "tokens": self.tokens,
            "complete": self.complete,
        }
        sealed.write(path, _KIND, tensors, header)

    @classmethod
    def load(cls, path: Path) -> Collection:
        """Read a file of `save`.

        Raises StatisticsError for a file that is missing, damaged, or something else; StorageError where it may not be
        read.
        """
        tensors, header = sealed.read(path, _KIND)
        try:
            found = cls(Plan.from_dict(header["plan"]))
            found.batches, found.tokens, found.complete = header["batches"], header["tokens"], header["complete"]
            for layer, keys in found.layers.items():
                known = header["layers"][str(layer)]
                about = Provenance.from_dict(known["provenance"])
                summed = tensors.get(f"{layer}.sum")
                if summed is not None:
                    keys.moment = SecondMoment.of_packed(summed, found.plan.d, int(known["count"]), about)
                keys.moment.provenance, keys.keys_before = about, int(known["keys_before"])
                keys.probes, keys.before = tensors.get(f"{layer}.probes"), tensors.get(f"{layer}.before")
        except (KeyError, TypeError, ValueError) as error:
            raise StatisticsError(f"{path} is damaged ({error}): delete it and collect again") from error
        return found

    @staticmethod
    def glance(path: Path) -> tuple[Plan, bool]:
        """A file's plan and whether it is complete, without its sums; errors as in `load`."""
        header = sealed.read_header(path, _KIND)
        try:
            return Plan.from_dict(header["plan"]), bool(header["complete"])
        except (KeyError, TypeError, ValueError) as error:
            raise StatisticsError(f"{path} is damaged ({error}): delete it and collect again") from error
