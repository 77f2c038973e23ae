"""Shards of a collection: equal parts that may be collected apart, on other machines too, and merged."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rome_engine.errors import StatisticsError


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `of`: every `of`-th batch of the sample, so that each part is spread over all of it.

    Raises StatisticsError for a part that does not exist.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise StatisticsError(f"there is no shard {self}: shards are counted from 1, such as 2/4")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of "2/4". Raises StatisticsError for anything else."""
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if found is None:
            raise StatisticsError(f"the shard {text!r} is not given as two numbers such as 2/4")
        return cls(int(found[1]), int(found[2]))

    def has(self, batch: int) -> bool:
        """Whether this batch of the sample, counted from 0, is the shard's."""
        return batch % self.of == self.number - 1


WHOLE = Shard()
