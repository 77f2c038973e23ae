"""What a benchmark run is: the method, the protocol, the metrics, the records and their order, as data."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from rome_engine.bench.datasets import DataSet
from rome_engine.bench.record import Record
from rome_engine.errors import BenchError
from rome_engine.model.language_model import LanguageModel
from rome_engine.versions import versions

Protocol = Literal["single", "batch", "sequential"]
Order = Literal["file", "random"]

GROUP = 32
"""Records that are edited and scored together, or marked as done: a kill takes no more than these away."""


@dataclass(frozen=True)
class Plan:
    """One run.

    protocol: "single" edits each record from the untouched model; "batch" all records at once; "sequential" in batches
    of `batch` records, each on top of those before, and scores all records edited so far after every `every`-th batch
    and the last, after the others the newest batch alone. metrics: by name. limit: the first so many records in this
    order. order: the file's, or drawn by `seed`. text: sha256 of the text whose perplexity is measured, where one is.
    tasks: what the lm-evaluation-harness is to measure on the whole model, where anything.
    Raises BenchError for numbers that make no sense, and for a text or tasks where no edit stays in force.
    """

    method: str
    metrics: tuple[str, ...]
    protocol: Protocol = "single"
    batch: int = 50
    limit: int | None = None
    order: Order = "file"
    seed: int = 0
    text: str | None = None
    every: int = 1
    tasks: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BenchError(f"a batch has at least one record, not {self.batch}")
        if self.every < 1:
            raise BenchError(f"all records are scored after every batch, or every so many, not every {self.every}")
        if self.limit is not None and self.limit < 1:
            raise BenchError(f"a run has at least one record, not {self.limit}")
        if (self.text is not None or self.tasks is not None) and self.protocol == "single":
            raise BenchError(
                "a text's perplexity, or a task, is measured on edits that stay in force: use batch or sequential"
            )
        if not self.metrics:
            raise BenchError("there is nothing to measure: name at least one metric")

    def records(self, data: DataSet) -> tuple[Record, ...]:
        """The records in the order in which they are edited."""
        chosen = list(data.records)
        if self.order == "random":
            random.Random(self.seed).shuffle(chosen)
        return tuple(chosen[: self.limit])

    def batches(self, records: Sequence[Record]) -> list[range]:
        """The positions that are edited together, for the protocols that edit on top of each other."""
        size = self.batch if self.protocol == "sequential" else max(len(records), 1)
        return [range(begin, min(begin + size, len(records))) for begin in range(0, len(records), size)]

    def scored(self, batches: Sequence[range], number: int) -> range:
        """The positions that are scored after a batch: those of all so far, or its own."""
        everything = number == len(batches) - 1 or (number + 1) % self.every == 0
        return range(0 if everything else batches[number].start, batches[number].stop)

    def configuration(self, data: DataSet, config: Any, moments: dict[str, str]) -> dict[str, Any]:
        """All that a run's numbers depend on but the model and the machine, as a JSON object."""
        return {**self.known(data), "settings": asdict(config), "moments": moments}

    def known(self, data: DataSet) -> dict[str, Any]:
        """The part of it that is known without the model."""
        return {
            **asdict(self),
            "batch": self.batch if self.protocol == "sequential" else None,
            "every": self.every if self.protocol == "sequential" else None,
            "metrics": list(self.metrics),
            "group": GROUP,
            "data": {
                **{name: getattr(data, name) for name in ("name", "sha256", "references")},
                "malformed": len(data.malformed),
            },
        }


def environment(model: LanguageModel) -> dict[str, Any]:
    """What computes a run's numbers: weights, config, tokenizer, type, device, libraries, threads."""
    return {
        "model": model.name,
        "weights": model.weight_hash(),
        "config": model.config_hash(),
        "tokenizer": model.tokenizer_hash(),
        "dtype": str(model.dtype).removeprefix("torch."),
        **_device(model.device),
        "attention": str(model.module.config._attn_implementation),
        **machine(),
    }


def _device(device: torch.device) -> dict[str, Any]:
    """Its name; of a GPU also the CUDA version, and whether float32 products are rounded to TF32."""
    if device.type != "cuda":
        return {"device": device.type}
    tf32 = torch.backends.cuda.matmul.allow_tf32
    return {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "tf32": tf32}


def machine() -> dict[str, Any]:
    """The part of it that is known without the model."""
    return {"threads": torch.get_num_threads(), **versions("numpy", "tokenizers")}


def grouped(records: Sequence[tuple[int, Record]]) -> list[Sequence[tuple[int, Record]]]:
    """The pieces in which records, with their positions, are worked on: always the same ones."""
    return [records[begin : begin + GROUP] for begin in range(0, len(records), GROUP)]
