"""What is read off the logits of a run: all metrics from one pass (Zhang & Nanda 2023, section 2, for their choice)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

METRICS = ("probability", "log_probability", "logit_difference", "kl", "rank")


@dataclass(frozen=True, eq=False)
class Question:
    """What the logits are asked.

    answer: the tokens of the answer, teacher-forced: those of several tokens are multiplied (probability) or added
    (log-probability, KL). foil: the token whose logit is subtracted from that of the answer's first token. clean: the
    clean run's log-probabilities (answer, d_vocab), which KL compares with.
    """

    answer: tuple[int, ...]
    foil: int | None = None
    clean: Float[Tensor, "answer d_vocab"] | None = None

    @cached_property
    def weights(self) -> Float[Tensor, "answer d_vocab"] | None:
        """The clean run's probabilities p."""
        return None if self.clean is None else self.clean.exp()

    @cached_property
    def moments(self) -> tuple[Float64[Tensor, " answer"], Float64[Tensor, " answer"]] | None:
        """Σ p log p and Σ p, the second 1 but for rounding."""
        if self.clean is None:
            return None
        p = self.clean.double().exp()
        return (p * self.clean).sum(-1).cpu(), p.sum(-1).cpu()


def measure(logits: Float[Tensor, "rows answer d_vocab"], question: Question) -> Float[Tensor, "rows metrics"]:
    """The metrics of each row in the order of METRICS, in float64 on the CPU; what was not asked is NaN.

    probability and log_probability (nats) of the whole answer; logit_difference of its first token to the foil; kl:
    KL(clean ‖ this run) in nats, summed over the answer's positions; rank: that of the answer's token, 1 the most
    probable, and the worst of several. The logits are overwritten,
    but for those that gradients are taken of: arrays of their size are what this costs.
    """
    logits = logits.float()
    rows = logits.shape[0]
    answer = torch.tensor(question.answer, device=logits.device)[None, :, None].expand(rows, -1, 1)
    chosen = logits.gather(-1, answer)  # (rows, answer, 1)
    found = torch.full((rows, len(METRICS)), torch.nan, dtype=torch.float64)
    if question.foil is not None:
        found[:, 2] = chosen[:, 0, 0].double() - logits[:, 0, question.foil].double()
    found[:, 4] = 1 + _above(logits, chosen).amax(-1).double()
    largest = logits.amax(-1, keepdim=True)
    logits = logits - largest if logits.requires_grad else logits.sub_(largest)
    log_probability = (chosen - largest)[..., 0].double()  # less the total, below
    weights, moments = question.weights, question.moments
    cross = None if weights is None else torch.einsum("rav,av->ra", logits, weights.to(logits.device)).double()
    mass = (logits.exp() if logits.requires_grad else logits.exp_()).sum(-1)  # (rows, answer)
    total = mass.double().log()
    found[:, 1] = (log_probability - total).sum(-1)
    found[:, 0] = found[:, 1].exp()
    if cross is not None and moments is not None:
        # Σ p (log p - log q), where log q = logits - largest - total: no other array of the vocabulary's size is made.
        entropy, all_p = (moment.to(total.device) for moment in moments)
        found[:, 3] = (entropy + all_p * total - cross).sum(-1)
    return found


def _above(
    logits: Float[Tensor, "rows answer d_vocab"], chosen: Float[Tensor, "rows answer 1"]
) -> Float[Tensor, "rows answer"]:
    """How many logits are larger: numpy compares and counts as they lie, where torch makes wide integers first."""
    if logits.device.type != "cpu":
        return (logits > chosen).sum(-1).float()
    pairs = zip(logits.detach().flatten(0, 1).numpy(), chosen.detach().flatten().tolist(), strict=True)
    return torch.tensor([np.count_nonzero(row > one) for row, one in pairs], dtype=torch.float32).view(chosen.shape[:2])
