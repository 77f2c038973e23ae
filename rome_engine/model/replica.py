"""A model as other processes load it: what works there must be the same model, or its numbers are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rome_engine.errors import ClusterError
from rome_engine.model.language_model import LanguageModel
from rome_engine.versions import computed_by, versions


@dataclass(frozen=True)
class Replica:
    """How to load a model elsewhere (picklable), what it must be there, and on how many GPUs it lies."""

    load: Callable[[], LanguageModel]
    about: Mapping[str, Any]
    gpus: int = 0

    @classmethod
    def of(cls, model: LanguageModel, load: Callable[[], LanguageModel]) -> Replica:
        """That of a model that is as it was loaded."""
        gpus = {weight.device for weight in model.module.parameters() if weight.device.type == "cuda"}
        return cls(load, _about(model), len(gpus))

    def __call__(self) -> LanguageModel:
        """The model, loaded in this process. Raises ClusterError where it is another one, or computed otherwise."""
        model = self.load()
        for name, here in _about(model).items():
            if here != self.about[name]:
                raise ClusterError(
                    f"a worker has the {name} {here}, not {self.about[name]}: give all machines the same, or the "
                    "results would differ"
                )
        return model


def _about(model: LanguageModel) -> dict[str, Any]:
    """What a model's numbers depend on."""
    return {
        "weights": model.weight_hash(),
        "config": model.config_hash(),
        "tokenizer": model.tokenizer_hash(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": computed_by(model.device),
        "threads": torch.get_num_threads(),
        **versions(),
    }
