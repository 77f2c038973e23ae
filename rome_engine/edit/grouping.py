"""Which facts share a batch: those whose rows are about as long, as many as the memory holds."""

from __future__ import annotations

from collections.abc import Sequence

from rome_engine.edit.question import Question
from rome_engine.model.language_model import LanguageModel

MEMORY = 1 << 30
"""Bytes a batch may use beside the model."""

# However few its tokens, a step costs about as much as this many more (MEMIT's settings on the embedded model).
_CALL = 64


def groups(questions: Sequence[Question], lowest: int, memory: int = MEMORY) -> list[list[Question]]:
    """The questions in groups that waste least on padding and on small batches, none larger than the memory.

    lowest: the lowest layer that is run at each step.
    A question that is larger alone is a group of its own. Equal questions give equal groups.
    """
    ordered = sorted(questions, key=lambda question: (question.after, question.before))
    costs, begins = [0], [0]  # the least cost of the first so many, in tokens, and where their last group begins
    for end in range(1, len(ordered) + 1):
        best: tuple[int, int] | None = None
        rows = reads = before = 0
        after = ordered[end - 1].after
        for begin in range(end - 1, -1, -1):
            question = ordered[begin]
            rows += len(question.texts)
            reads += question.n_contexts * len(question.target) + 1
            before = max(before, question.before)
            if best is not None and batch_bytes(question.model, lowest, rows, before, after, reads) > memory:
                break
            cost = costs[begin] + rows * after + _CALL
            if best is None or cost < best[0]:
                best = cost, begin
        assert best is not None
        costs.append(best[0])
        begins.append(best[1])
    found: list[list[Question]] = []
    end = len(ordered)
    while end:
        found.append(ordered[begins[end] : end])
        end = begins[end]
    return found[::-1]


def batch_bytes(model: LanguageModel, lowest: int, rows: int, before: int, after: int, reads: int) -> int:
    """What a step of a batch keeps for its gradients, about: an upper bound for the families that were measured.

    In every block that is run a token keeps some 8 numbers a residual dimension and 4 a dimension of the MLP, and
    a row the keys and values of all its tokens and the attention between them; a read keeps its logits, their
    log-probabilities and what becomes of them.
    """
    shape = model.architecture
    tokens = before + after
    block = after * (8 * shape.d_model + 4 * shape.d_mlp) + tokens * (2 * shape.d_model + 2 * shape.n_heads * after)
    blocks = (model.n_layers - lowest) * rows * block * model.dtype.itemsize
    return blocks + 3 * reads * shape.d_vocab * 4
