"""Keys: what goes into a down-projection at the subject's last token, and what comes of it, for many facts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from rome_engine.edit.context import Contexts
from rome_engine.edit.rows import Row
from rome_engine.facts import Fact
from rome_engine.model.hooks import Trace
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.replay import KeysValues, Replay

# Tokens run at once: with more a processor is no faster, and the memory is that of the states of so many.
_TOKENS = 2048
_SHARED = 8

Ids = tuple[int, ...]
PARTS = ("keys", "values", "hidden")


@dataclass(frozen=True, eq=False)
class States:
    """What some rows have at their last tokens in one layer.

    keys go into the down-projection, values come out of it, hidden out of the block.
    """

    keys: Float[Tensor, "rows d_mlp"]
    values: Float[Tensor, "rows d_model"]
    hidden: Float[Tensor, "rows d_model"]

    def of(self, row: int) -> States:
        """One row's alone."""
        return States(*(part[row : row + 1] for part in (self.keys, self.values, self.hidden)))


class Subjects:
    """The facts' prompts in every context, cut at the subject's last token and ready to be run.

    Weights may change between two calls. What is returned lies on the CPU, in float32 at least.
    Raises PromptError and PromptTooLongError for a fact that cannot be asked.
    """

    def __init__(self, model: LanguageModel, facts: Sequence[Fact], contexts: Contexts) -> None:
        self._model = model
        self._fine = torch.promote_types(model.dtype, torch.float32)
        self._facts = len(facts)
        self._weights = torch.tensor(contexts.weights, dtype=torch.float64)
        self._rows: list[list[Ids]] = [[] for _ in contexts.templates]  # by context, then by fact
        for fact in facts:
            for rows, template in zip(self._rows, contexts.prompts(fact), strict=True):
                row = Row.of(model, template, fact.subject)
                rows.append(row.ids[: row.cut + 1])

    def mean(self, layer: int) -> States:
        """Every fact's mean over its contexts, by their weights: of the keys this is k̄.

        Source: ROME (arXiv 2202.05262) equation 3.
        """
        return States(*self._means(layer, PARTS))

    def mean_keys(self, layer: int) -> Float[Tensor, "facts d_mlp"]:
        """Of the mean the keys alone, without memory for the rest."""
        (keys,) = self._means(layer, ("keys",))
        return keys

    def bare(self, layer: int) -> States:
        """Every fact's bare prompt's; of the keys this is k₀."""
        return States(*self._gathered(self._rows[0], layer, PARTS))

    def bare_outputs(self, layer: int, part: Literal["values", "hidden"]) -> Float[Tensor, "facts d_model"]:
        """Of the bare prompt's one part alone, without memory for the rest."""
        (found,) = self._gathered(self._rows[0], layer, (part,))
        return found

    def each(self, layer: int) -> States:
        """All rows', those of the first context first."""
        return States(*self._gathered([row for rows in self._rows for row in rows], layer, PARTS))

    def _means(self, layer: int, parts: Sequence[str]) -> list[Tensor]:
        contexts = range(len(self._rows))
        # Where the facts are many the rows of a context go together, so that the context itself is run only once.
        groups = [[context] for context in contexts] if self._facts >= _SHARED else [list(contexts)]
        total: list[Tensor] = []
        for group in groups:
            rows = [row for context in group for row in self._rows[context]]
            for batch, states in _run(self._model, rows, layer):
                given = [getattr(states, part) for part in parts]
                total = total or [torch.zeros(self._facts, part.shape[1], dtype=torch.float64) for part in given]
                weights = self._weights[[group[index // self._facts] for index in batch]]
                fact = torch.tensor([index % self._facts for index in batch])
                for summed, part in zip(total, given, strict=True):
                    summed.index_add_(0, fact, weights[:, None] * part.cpu().double())
        return [summed.to(self._fine) for summed in total]

    def _gathered(self, rows: Sequence[Ids], layer: int, parts: Sequence[str]) -> list[Tensor]:
        found: list[Tensor] = []
        for batch, states in _run(self._model, rows, layer):
            given = [getattr(states, part) for part in parts]
            found = found or [torch.empty(len(rows), part.shape[1], dtype=self._fine) for part in given]
            for whole, part in zip(found, given, strict=True):
                whole[batch] = part.to(whole)
        return found


def keys(
    model: LanguageModel, fact: Fact, contexts: Contexts, layers: Sequence[int]
) -> dict[int, Float[Tensor, "contexts d_mlp"]]:
    """One fact's keys at these layers, a row a context: the first is k₀, the mean by the contexts' weights is k̄."""
    subjects = Subjects(model, [fact], contexts)
    return {layer: subjects.each(layer).keys for layer in layers}


@torch.no_grad()
def _run(model: LanguageModel, rows: Sequence[Ids], layer: int) -> Iterator[tuple[list[int], States]]:
    """A batch of rows at a time: their numbers, and their states in one layer. Nothing above the layer is run."""
    path = model.architecture.path(layer, model.architecture.down_projection)
    for batch in _batches(rows):
        ids = [rows[index] for index in batch]
        shared = _shared(ids) if len(ids) > 1 else 0
        prefix = _prefix(model, ids[0][:shared], layer) if shared else None
        longest = max(map(len, ids))
        # What stands behind a text is seen by none of its tokens; it repeats the last one.
        padded = [[*row[shared:], *[row[-1]] * (longest - len(row))] for row in ids]
        with Trace(model.blocks[0], retain_input=True, retain_output=False) as first:
            replay = Replay(model, torch.tensor(padded, device=model.device), prefix)
        hidden = first.input
        with Trace(model.module, path, retain_input=True, clone=True) as down:
            for index in range(layer + 1):
                hidden = replay.block(index, hidden)
        last = torch.tensor([len(row) - shared - 1 for row in ids])
        yield batch, States(_at(down.input, last, hidden), _at(down.output, last, hidden), _at(hidden, last, hidden))


def _batches(rows: Sequence[Ids]) -> Iterator[list[int]]:
    """Rows of like lengths together, no more tokens than `_TOKENS` with the padding; a longer row goes alone."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
        if batch and (len(batch) + 1) * len(rows[index]) > _TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _shared(rows: Sequence[Ids]) -> int:
    """How many tokens all rows begin with, so that each keeps one of its own."""
    first, last = min(rows), max(rows)  # in the order of words all others lie between these two
    most = min(map(len, rows)) - 1
    return next((place for place in range(most) if first[place] != last[place]), most)


@torch.no_grad()
def _prefix(model: LanguageModel, ids: Ids, layer: int) -> KeysValues:
    cache = DynamicCache()
    with Trace(model.blocks[layer], retain_output=False, stop=True):
        model.module.base_model(
            input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, use_cache=True
        )
    found = KeysValues.of(cache).layers
    # The layers above are never run, but masks are made for all of them.
    return KeysValues((*found, *[found[-1]] * (model.n_layers - len(found))))


def _at(states: Tensor, last: Tensor, like: Tensor) -> Tensor:
    # Some families flatten rows and tokens inside the block.
    rows = torch.arange(len(last), device=states.device)
    return states.reshape(*like.shape[:2], states.shape[-1])[rows, last.to(states.device)]
