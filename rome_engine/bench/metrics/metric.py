"""What a metric is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from rome_engine.bench.asks import Answers, Ask
from rome_engine.bench.record import Record


@runtime_checkable
class Metric(Protocol):
    """One figure of a record. A new metric is an instance in some file's `METRICS` in this folder.

    name: such as "es@1"; a definition that changes gets another number. higher: whether more of it is better. unit:
    "share" (0 to 1), "nats", "bits", "ratio" … of the figure itself.
    """

    @property
    def name(self) -> str: ...

    @property
    def higher(self) -> bool: ...

    @property
    def unit(self) -> str: ...

    def asks(self, record: Record) -> Iterable[Ask]:
        """What must be asked of the model for this record; nothing where the record has none of it."""

    def value(self, record: Record, after: Answers, before: Answers) -> float | None:
        """The figure; None where there is nothing to take it of. For "before" both answers are the untouched model's.

        A metric that compares with the untouched model reads `before`, where the same asks were made.
        """
