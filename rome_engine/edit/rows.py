"""Rows of text cut at the subject's last token: all that a change at that token can be felt by, and nothing else.

What lies before the cut is run once and kept as attention keys and values; from there on the blocks can be replayed
one by one, on all rows together. A row's place in the batch, and whose fact it is, do not matter here.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rome_engine.edit.prefix import keys_values
from rome_engine.model.hooks import Trace, first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replay import Replay


@dataclass(frozen=True)
class Row:
    """One text as tokens; `cut` is the position of the subject's last token."""

    ids: tuple[int, ...]
    cut: int

    @classmethod
    def of(cls, model: LanguageModel, template: str, subject: str, target: Sequence[int] = ()) -> Row:
        """The row of a prompt template and a subject; `target` is teacher-forced behind it, all but its last token.

        Raises PromptError for what cannot be asked, PromptTooLongError where it does not fit the model's context.
        """
        prompt = model.tokenize(template, subject)
        model.check_length(prompt, len(target[:-1]))
        return cls((*prompt.input_ids, *target[:-1]), prompt.last_subject_token)


@dataclass(frozen=True, eq=False)
class Captured:
    """What one layer had: the block's inputs and outputs on all tokens from the cut on, and parts of it at the cut.

    values: what the down-projection put out. attended: what the attention added.
    """

    before: Float[Tensor, "rows n d_model"]
    attended: Float[Tensor, "rows d_model"]
    values: Float[Tensor, "rows d_model"]
    after: Float[Tensor, "rows n d_model"]

    def take(self, rows: Int[Tensor, " some"]) -> Captured:
        """That of some of the rows."""
        rows = rows.to(self.after.device)
        return Captured(self.before[rows], self.attended[rows], self.values[rows], self.after[rows])


class Rows:
    """A batch of rows, ready to be run from the cut on.

    rows: any texts of any lengths. Padded on the left before the cut and on the right after it.
    """

    def __init__(self, model: LanguageModel, rows: Sequence[Row]) -> None:
        self.model = model
        before = max(row.cut for row in rows)
        after = max(len(row.ids) - row.cut for row in rows)
        padded = [[0] * (before - row.cut) + list(row.ids) + [0] * (after - len(row.ids) + row.cut) for row in rows]
        real = [[0] * (before - row.cut) + [1] * len(row.ids) + [0] * (after - len(row.ids) + row.cut) for row in rows]
        ids, mask = (torch.tensor(table, device=model.device) for table in (padded, real))
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        prefix = keys_values(model, [row.ids[: row.cut] for row in rows]) if before else None
        # The blocks are only stood in for here, their hooks still run: the first one's input is the embedding's output.
        with Trace(model.blocks[0], retain_input=True, retain_output=False) as first:
            self._replay = Replay(model, ids[:, before:], prefix, mask=mask, positions=positions[:, before:])
        self._embedded: Tensor = first.input

    def take(self, rows: Int[Tensor, " some"]) -> Rows:
        """Some of the rows; what was computed of them is kept."""
        taken = copy(self)
        taken._replay, taken._embedded = self._replay.take(rows), self._embedded[rows.to(self._embedded.device)]
        return taken

    @torch.no_grad()
    def capture(self, layer: int) -> Captured:
        """What this layer has; nothing above it is run."""
        hidden = self._embedded
        for below in range(layer):
            hidden = self.block(below, hidden)
        down, attention = self.model.down_projection(layer), self.model.output("attn", layer)
        with Trace(down, clone=True) as value, Trace(attention, clone=True) as attended:
            after = self.block(layer, hidden)
        # Some families flatten rows and tokens inside the block.
        added, put_out = (first_tensor(part.output).reshape(*after.shape)[:, 0].clone() for part in (attended, value))
        return Captured(hidden, added, put_out, after)

    def block(self, layer: int, hidden: Float[Tensor, "rows n d_model"]) -> Float[Tensor, "rows n d_model"]:
        """A block's outputs for these inputs; differentiable."""
        return self._replay.block(layer, hidden)

    def onward(self, layer: int, hidden: Float[Tensor, "rows n d_model"]) -> Float[Tensor, "rows n d_model"]:
        """The last block's outputs, given this layer's; differentiable."""
        for above in range(layer + 1, self.model.n_layers):
            hidden = self.block(above, hidden)
        return hidden
