"""How many rows go together: large enough for products at full speed, small enough for the memory that may be used."""

from __future__ import annotations

from rome_engine.errors import TraceError
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace.baseline import Baseline

DEFAULT = 1 << 30
"""Bytes where nothing else is asked for."""

CHUNK_TOKENS = 768
"""Rows × tokens of a block call: products run at full speed from a few hundred on, and what lies between them should
stay in the cache."""

UNEMBED_ROWS = 512
"""Rows × scored tokens whose logits are there at once."""


class Budget:
    """A share of the memory each for states, for a block's temporaries, for logits and for states kept for births.

    Raises TraceError where the memory does not hold one cell's rows.
    """

    def __init__(self, model: LanguageModel, baseline: Baseline, memory: int | None = None) -> None:
        self.memory = DEFAULT if memory is None else memory
        self._samples, self._tokens = baseline.samples, baseline.tokens
        architecture = model.architecture
        self._state = baseline.embedded.element_size() * architecture.d_model
        # In flight at the widest place of a block: some arrays of the model's width, four of the MLP's.
        self._temporary = baseline.embedded.element_size() * (8 * architecture.d_model + 4 * architecture.d_mlp)
        self._logits = architecture.d_vocab * (baseline.embedded.element_size() + 2 * 4)
        self.births = self.memory // 8
        self.of_states, self._of_blocks, self._of_logits = self.memory // 2, self.memory // 4, self.memory // 4
        needed = max(
            2 * self._row(self._tokens - baseline.subject[0]) * self._samples,
            4 * self._samples * (self._tokens - baseline.subject[0]) * self._temporary,
            4 * self._logits * (self._tokens - baseline.first_scored),
        )
        if needed > self.memory:
            raise TraceError(
                f"{self.memory / 2**20:.0f} MiB do not hold the rows of one cell of this prompt: allow at least "
                f"{needed / 2**20 + 1:.0f} MiB, or take fewer samples"
            )

    def _row(self, n: int) -> int:
        """Bytes of one row's states while a layer is run: as it was and as it becomes, and room to grow."""
        return 2 * n * self._state

    def states(self, start: int) -> int:
        """Bytes of the states of a cell whose rows begin at this token."""
        return self._row(self._tokens - start) * self._samples

    def branches(self, start: int) -> int:
        """Branches in one block call on the tokens from `start` on."""
        tokens = self._samples * (self._tokens - start)
        return max(1, min(CHUNK_TOKENS // tokens, self._of_blocks // (self._temporary * tokens)))

    def unembedded(self, answer: int) -> int:
        """Rows whose logits of this many scored tokens are there at once."""
        return max(1, min(UNEMBED_ROWS, self._of_logits // self._logits) // answer)
