"""What the value search asks: prompts with the target behind them, and "{subject} is a", of one fact or of several."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rome_engine.edit.context import Contexts
from rome_engine.edit.rows import Row, Rows
from rome_engine.facts import PLACE, Fact
from rome_engine.model.language_model import LanguageModel

ESSENCE = f"{PLACE} is a"


class Question:
    """A fact's prompt in every context with the target behind it, and "{subject} is a": the rows the loss is made of.

    target: the target's tokens. The rows of the contexts come first, in their order.
    """

    def __init__(self, model: LanguageModel, fact: Fact, target: Sequence[int], contexts: Contexts) -> None:
        self.model, self.fact, self.target = model, fact, tuple(target)
        prompts = [Row.of(model, template, fact.subject, target) for template in contexts.prompts(fact)]
        self.n_contexts = len(prompts)
        whole = Row.of(model, ESSENCE, fact.subject)
        essence = Row(whole.ids[: whole.cut + 1], whole.cut)
        # Read at the subject's last token, it is what a prompt that begins with the subject says there.
        same = [index for index, row in enumerate(prompts) if row.ids[: row.cut + 1] == essence.ids]
        self.essence = same[0] if same else len(prompts)
        self.texts = tuple(prompts if same else [*prompts, essence])
        # The target's first token is read at the prompt's last; counted from the cut.
        self.reads = tuple(len(row.ids) - row.cut - len(self.target) for row in prompts)
        self.at_subject = not any(self.reads)
        self.before = max(row.cut for row in self.texts)
        """The most tokens before a subject's last one; `after`: the most from there on."""
        self.after = max(len(row.ids) - row.cut for row in self.texts)


class Batch:
    """The questions of several facts, whose rows are run together."""

    def __init__(self, questions: Sequence[Question], rows: Rows | None = None) -> None:
        """rows: those of all the questions, one question after another; made here if not given."""
        self.questions = tuple(questions)
        self.model = questions[0].model
        self.rows = rows or Rows(self.model, [row for question in questions for row in question.texts])
        counts = [len(question.texts) for question in questions]
        starts = [0, *accumulate(counts)]
        device = self.model.device
        self.bare = torch.tensor(starts[:-1], device=device)
        """The row of each fact's bare prompt."""
        self.facts = torch.arange(len(counts), device=device).repeat_interleave(torch.tensor(counts, device=device))
        """Whose each row is."""
        reads = [
            (start + row, place + index, token)
            for start, question in zip(starts, questions, strict=False)
            for row, place in enumerate(question.reads)
            for index, token in enumerate(question.target)
        ]
        self._spoken = [question.n_contexts * len(question.target) for question in questions]
        self._row, self._place, self._token = torch.tensor(reads, device=device).unbind(1)
        self._essence = torch.tensor([start + one.essence for start, one in zip(starts, questions, strict=False)])

    def rows_of(self, facts: Sequence[int]) -> Int[Tensor, " rows"]:
        """The rows of some of the facts."""
        return torch.isin(self.facts, self.facts.new_tensor(list(facts))).nonzero()[:, 0]

    def take(self, facts: Sequence[int]) -> Batch:
        """The batch of some of the facts, in their order here."""
        return Batch([self.questions[fact] for fact in sorted(facts)], self.rows.take(self.rows_of(facts)))

    def log_probabilities(
        self, layer: int, after: Float[Tensor, "rows n d_model"]
    ) -> tuple[tuple[Float[Tensor, " contexts_and_tokens"], ...], Float[Tensor, "facts d_vocab"]]:
        """Of each fact's target tokens, one context after another; and of all tokens behind each subject alone.

        after: this layer's outputs.
        """
        last = self.rows.onward(layer, after)
        row, place, token, essence = (
            index.to(last.device) for index in (self._row, self._place, self._token, self._essence)
        )
        logits = self.model.unembed(torch.cat([last[row, place], last[essence, 0]]))
        spoken = logits.to(fine(logits.dtype)).log_softmax(-1)
        said, unchanged = torch.split(spoken, [len(row), len(essence)])
        return torch.split(said.gather(-1, token[:, None])[:, 0], self._spoken), unchanged


def fine(dtype: torch.dtype) -> torch.dtype:
    """float32 at least."""
    return torch.promote_types(dtype, torch.float32)
