"""What a result says of how it came about: model, weights, number type, versions, tokens."""

from __future__ import annotations

from typing import Any

import torch

from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import Prompt
from rome_engine.versions import versions


def of(model: LanguageModel, *prompts: Prompt) -> dict[str, Any]:
    """JSON values that identify the model, what it ran on and the tokens it was given, if any are named."""
    given: dict[str, Any] = {
        "bos_added": any(prompt.bos_added for prompt in prompts),
        "input_ids": [list(prompt.input_ids) for prompt in prompts],
    }
    return {
        **versions(),
        "model": model.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "weights": model.weight_hash(),
        **(given if prompts else {}),
    }
