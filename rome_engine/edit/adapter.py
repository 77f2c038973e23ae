"""The edit as a LoRA adapter of the `peft` library, which loads it on the plain model; peft itself is not needed here.

Format: peft's `adapter_config.json` and `adapter_model.safetensors` (LoRA, Hu et al. 2021, arXiv 2106.09685).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from rome_engine.edit.edit import Edit
from rome_engine.edit.export import CARD
from rome_engine.files import folder_whole
from rome_engine.model import embedded
from rome_engine.model.architecture import is_conv1d
from rome_engine.model.language_model import LanguageModel


def save_adapter(
    model: LanguageModel, edit: Edit, folder: str | Path, *, base: str | None = None, card: str | None = None
) -> Path:
    """Write the edit as a peft adapter: W + B A with B = left and A = rightᵀ, of rank and scale as in the edit.

    On the same base, in float32, peft's logits are those of the merged model to 1e-5 of the largest of them.
    folder: new or empty; it is there whole or not at all. base: what peft loads the model from; None is what this one
    was loaded from, and of the embedded model its Hub id, whose weights are not quantised: that promise then needs the
    embedded model itself as the base. card: what its README.md shall say, see `report.card`.
    Raises WrongWeightsError for an edit of another model, StorageError.
    """
    edit.check(model)
    path = Path(folder)
    with folder_whole(path) as partial:
        (partial / "adapter_config.json").write_text(json.dumps(_config(model, edit, base), indent=2) + "\n")
        (partial / "adapter_model.safetensors").write_bytes(save(_tensors(edit), {"format": "pt"}))
        if card is not None:
            (partial / CARD).write_text(card, encoding="utf-8")
    return path


def _config(model: LanguageModel, edit: Edit, base: str | None) -> dict[str, Any]:
    ranks = {change.path: change.left.shape[1] for change in edit.layers.values()}
    # By peft's rules a pattern is a regular expression, and what is scaled is alpha / rank.
    other = {f"^{re.escape(path)}": rank for path, rank in ranks.items() if rank != edit.rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or _origin(model),
        "target_modules": list(ranks),
        "r": edit.rank,
        "rank_pattern": other,
        "lora_alpha": edit.rank,
        "alpha_pattern": other,
        "fan_in_fan_out": is_conv1d(model.down_projection(next(iter(edit.layers)))),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def _origin(model: LanguageModel) -> str:
    if model.name == embedded.NAME:
        return embedded.HUB_ID  # it lies in the cache of this machine alone
    return str(model.module.config.name_or_path or model.name)


def _tensors(edit: Edit) -> dict[str, Tensor]:
    tensors = {}
    for change in edit.layers.values():
        tensors[f"base_model.model.{change.path}.lora_A.weight"] = change.right.T.contiguous()
        tensors[f"base_model.model.{change.path}.lora_B.weight"] = change.left.contiguous()
    return tensors
