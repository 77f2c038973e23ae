"""How many rows go together: large enough for products at full speed, small enough for the memory that may be used.

What is there at once: states of all waves that walk together, first states kept for births, and the work of the moment:
one block call, or the logits of some rows.
"""

from __future__ import annotations

import math

from rome_engine.errors import TraceError
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace.baseline import Baseline

DEFAULT = 1 << 30
"""Bytes where nothing else is asked for."""

CHUNK_TOKENS = 2048
"""Rows × tokens of a block call: larger ones are no faster."""

UNEMBED_ROWS = 512
"""Rows × scored tokens whose logits are there at once."""

GAPS = 1 / 4
"""Share of the memory that the allocator leaves unused between arrays of many sizes; measured, up to a third."""


class Budget:
    """Shares of the memory: `of_states` for states that walk together, `births` for states kept for births.

    Raises TraceError where the memory does not hold one cell's rows.
    """

    def __init__(self, model: LanguageModel, baseline: Baseline, memory: int | None = None) -> None:
        self.memory = DEFAULT if memory is None else memory
        self._model, self._baseline = model, baseline
        self._samples, self._tokens = baseline.samples, baseline.tokens
        self._answer = baseline.tokens - baseline.first_scored
        self._item = baseline.embedded.element_size()
        self._state = self._item * model.d_model
        begin = baseline.subject[0]
        birth = self._samples * (self._tokens - begin) * self._state
        cell, work = self.states(begin), max(self._call(begin), self._logits(self._answer))
        needed = birth + cell + work + self._fetched()
        if needed > (1 - GAPS) * self.memory:
            raise TraceError(
                f"{self.memory / 2**20:.3g} MiB do not hold the rows of one cell of this prompt: allow at least "
                f"{math.ceil(needed / (1 - GAPS) / 2**20)} MiB, or take fewer samples"
            )
        left = int((1 - GAPS) * self.memory) - needed
        more = max(0, min(left // 2, self._full_work() - work))
        self._work = work + more
        self.births = birth + (left - more) // 4
        self.of_states = cell + left - more - (left - more) // 4

    def states(self, start: int) -> int:
        """Bytes of the states of a cell whose rows begin at this token.

        Once the last layer is done only the scored tokens are left, and are copied into one tensor.
        """
        return self._samples * max(self._tokens - start, 2 * self._answer) * self._state

    def branches(self, start: int) -> int:
        """Branches in one block call on the tokens from `start` on."""
        return max(1, min(self._most(start), self._work // self._call(start)))

    def unembedded(self, answer: int) -> int:
        """Rows whose logits of this many scored tokens are there at once."""
        positions = (self._work - self._logits(0)) // (self._logits(1) - self._logits(0))
        return max(1, min(UNEMBED_ROWS, positions) // answer)

    def _most(self, start: int) -> int:
        """Branches in one block call where there is memory enough."""
        return max(1, CHUNK_TOKENS // (self._samples * (self._tokens - start)))

    def _full_work(self) -> int:
        """Bytes with which neither block calls nor logits are held back."""
        calls = (self._most(start) * self._call(start) for start in range(self._baseline.subject[0], self._tokens))
        return max(self._logits(UNEMBED_ROWS), *calls)

    def _call(self, start: int) -> int:
        """Bytes of a block call on one branch, beside its input."""
        architecture, n = self._model.architecture, self._tokens - start
        keys = self._baseline.keys_values.layers[0][0]
        kv_heads, d_head, heads = keys.shape[1], keys.shape[-1], max(keys.shape[1], architecture.n_heads)
        # In flight at the widest place: some arrays of the model's width (norms and rotations in float32), four of
        # the MLP's.
        width = max(architecture.d_model, heads * d_head)
        row = n * (8 * width * max(4, self._item) + 4 * architecture.d_mlp * self._item)
        # Every row gets its own copy of the keys and values before it, and another with a copy for each head.
        copies = kv_heads + (heads if heads > kv_heads else 0)
        row += 2 * copies * d_head * self._tokens * self._item
        if getattr(self._model.module.config, "_attn_implementation", None) != "sdpa":
            row += 3 * heads * n * self._tokens * max(4, self._item)  # scores, masked, and their softmax
        return self._samples * row

    def _logits(self, positions: int) -> int:
        """Bytes of the logits of some positions and of what is computed with them; 0: what there is anyway."""
        architecture, item = self._model.architecture, self._item
        plain = self._model.device.type == "cpu" and architecture.softcap is None and architecture.logit_scale == 1
        each = (1 if plain else 3) * item + 1  # a scale or softcap makes new arrays; a byte for the comparison
        each += 0 if item == 4 else 4  # metrics are taken in float32
        # The clean run's distribution as float32 and, several times, as float64.
        return architecture.d_vocab * (positions * each + 32 * self._answer)

    def _fetched(self) -> int:
        """Bytes of the weights that are there only while they are used: those of one block, or of the unembedding."""
        parts = (*self._model.blocks, self._model.unembedding)
        return max(sum(weight.nbytes for weight in part.parameters() if weight.is_meta) for part in parts)
