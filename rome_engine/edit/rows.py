"""Rows of text cut at the subject's last token: all that a change at that token can be felt by, and nothing else.

What lies before the cut is run once and kept as attention keys and values; from there on the blocks can be replayed
one by one, on all rows together. A row's place in the batch, and whose fact it is, do not matter here.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicCache

from rome_engine.errors import PromptTooLongError
from rome_engine.model.hooks import Trace, TraceDict
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replay import KeysValues, Replay


@dataclass(frozen=True)
class Row:
    """One text as tokens; `cut` is the position of the subject's last token."""

    ids: tuple[int, ...]
    cut: int

    @classmethod
    def of(cls, model: LanguageModel, template: str, subject: str, target: Sequence[int] = ()) -> Row:
        """The row of a prompt template and a subject; `target` is teacher-forced behind it, all but its last token."""
        prompt = model.tokenize(template, subject)
        return cls((*prompt.input_ids, *target[:-1]), prompt.last_subject_token)


@dataclass(frozen=True, eq=False)
class Captured:
    """What one layer had at every row's cut: `keys` into the down-projection and `values` out of it.

    `after` are the block's outputs on all tokens from the cut on.
    """

    keys: Float[Tensor, "rows d_mlp"]
    values: Float[Tensor, "rows d_model"]
    after: Float[Tensor, "rows n d_model"]


class Rows:
    """A batch of rows, ready to be run from the cut on.

    rows: any texts of any lengths. Padded on the left before the cut and on the right after it.
    Raises PromptTooLongError where a row does not fit the model's context.
    """

    def __init__(self, model: LanguageModel, rows: Sequence[Row]) -> None:
        self.model = model
        self.rows = tuple(rows)
        context = model.architecture.context
        longest = max(len(row.ids) for row in rows)
        if context is not None and longest > context:
            raise PromptTooLongError(
                f"a prompt with its context and target has {longest} tokens, the model's context holds {context}: "
                "shorten it"
            )
        before = max(row.cut for row in rows)
        after = max(len(row.ids) - row.cut for row in rows)
        padded = [[0] * (before - row.cut) + list(row.ids) + [0] * (after - len(row.ids) + row.cut) for row in rows]
        real = [[0] * (before - row.cut) + [1] * len(row.ids) + [0] * (after - len(row.ids) + row.cut) for row in rows]
        ids, mask = (torch.tensor(table, device=model.device) for table in (padded, real))
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        prefix = _prefix(model, ids[:, :before], mask[:, :before], positions[:, :before]) if before else None
        # The blocks are only stood in for here, their hooks still run: the first one's input is the embedding's output.
        with Trace(model.blocks[0], retain_input=True, retain_output=False) as first:
            self._replay = Replay(model, ids[:, before:], prefix, mask=mask, positions=positions[:, before:])
        self._embedded: Tensor = first.input

    @torch.no_grad()
    def capture(self, layers: Sequence[int]) -> dict[int, Captured]:
        """Keys, values and block outputs of these layers; nothing above the last of them is run."""
        wanted = sorted(set(layers))
        paths = {
            layer: self.model.architecture.path(layer, self.model.architecture.down_projection) for layer in wanted
        }
        found: dict[int, Captured] = {}
        hidden = self._embedded
        with TraceDict(self.model.module, paths.values(), retain_input=True, clone=True) as seen:
            for layer in range(wanted[-1] + 1):
                hidden = self._replay.block(layer, hidden)
                if layer in paths:
                    down = seen[paths[layer]]
                    found[layer] = Captured(_at_cut(down.input, hidden), _at_cut(down.output, hidden), hidden)
        return found

    def onward(self, layer: int, hidden: Float[Tensor, "rows n d_model"]) -> Float[Tensor, "rows n d_model"]:
        """The last block's outputs, given this layer's; differentiable."""
        for above in range(layer + 1, self.model.n_layers):
            hidden = self._replay.block(above, hidden)
        return hidden


def _at_cut(states: Tensor, like: Tensor) -> Tensor:
    # Some families flatten rows and tokens inside the block.
    return states.reshape(*like.shape[:2], states.shape[-1])[:, 0].clone()


@torch.no_grad()
def _prefix(
    model: LanguageModel,
    ids: Int[Tensor, "rows tokens"],
    mask: Int[Tensor, "rows tokens"],
    positions: Int[Tensor, "rows tokens"],
) -> KeysValues:
    base: Any = model.module.base_model
    extra = {"position_ids": positions} if "position_ids" in inspect.signature(base.forward).parameters else {}
    cache = DynamicCache()
    base(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
    # Where all is padding attention has nothing to attend to; what came of that must not enter other sums.
    real = mask.bool()[:, None, :, None]
    return KeysValues(
        tuple(
            (keys.masked_fill(~real.to(keys.device), 0), values.masked_fill(~real.to(values.device), 0))
            for keys, values in KeysValues.of(cache).layers
        )
    )
