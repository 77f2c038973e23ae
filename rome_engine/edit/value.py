"""The value search: the one optimiser that finds what a layer should put out at the subject's last token.

It serves every closed-form method. Only what depends on the change δ is computed in a step: the tokens from the
subject's last one on, in the layers above the edited one, and the logits that the loss reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from rome_engine.edit.context import Contexts
from rome_engine.edit.rows import Captured, Row, Rows
from rome_engine.errors import EditError
from rome_engine.facts import PLACE, Fact
from rome_engine.model.language_model import LanguageModel

log = logging.getLogger(__name__)

Place = Literal["mlp", "hidden"]
Progress = Callable[[int, int, float], None]
ESSENCE = f"{PLACE} is a"


@dataclass(frozen=True)
class ValueConfig:
    """Settings of the value search.

    steps: how often the loss is taken; δ does not move after the last of them. learning_rate: Adam's. decay: w, the
    weight of ‖δ‖ / ‖h₀‖². clamp: c, ‖δ‖ stays at most c · ‖h₀‖. kl: κ, the weight of the drift of "{subject} is a".
    stop_loss: the search is done below it.
    """

    steps: int = 20
    learning_rate: float = 0.5
    decay: float = 0.5
    clamp: float = 4.0
    kl: float = 0.0625
    stop_loss: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or self.clamp <= 0 or self.decay < 0 or self.kl < 0:
            raise EditError(
                f"{self}: steps must be at least 1, learning_rate and clamp above 0, decay and kl not below 0"
            )


@dataclass(frozen=True, eq=False)
class Value:
    """What the search found: `target` = `initial` + `delta`, the loss of every step, and how it ended."""

    target: Float[Tensor, " d_model"]
    delta: Float[Tensor, " d_model"]
    initial: Float[Tensor, " d_model"]
    losses: tuple[float, ...]
    stopped_early: bool
    seconds: float


class Question:
    """A fact's prompt in every context with the target behind it, and "{subject} is a": the rows the loss is made of.

    target: the target's tokens. The rows of the contexts come first, in their order.
    """

    def __init__(self, model: LanguageModel, fact: Fact, target: Sequence[int], contexts: Contexts) -> None:
        prompts = [Row.of(model, template, fact.subject, target) for template in contexts.prompts(fact)]
        essence = Row.of(model, ESSENCE, fact.subject)
        self.n_contexts = len(prompts)
        self.rows = Rows(model, [*prompts, Row(essence.ids[: essence.cut + 1], essence.cut)])
        self.target = torch.tensor(list(target), device=model.device)
        # The target's first token is read at the prompt's last; counted from the cut.
        first = torch.tensor([len(row.ids) - row.cut - len(target) for row in prompts], device=model.device)
        self.at_subject = not bool(first.any())  # the prompt ends with the subject
        reads = first[:, None] + torch.arange(len(target), device=model.device)
        row = torch.arange(self.n_contexts, device=model.device).repeat_interleave(len(target))
        self._read = (
            torch.cat([row, row.new_tensor([self.n_contexts])]),
            torch.cat([reads.flatten(), reads.new_tensor([0])]),
        )

    def log_probabilities(
        self, layer: int, after: Float[Tensor, "rows n d_model"]
    ) -> tuple[Float[Tensor, "contexts target d_vocab"], Float[Tensor, " d_vocab"]]:
        """Of the next token at each target token's place, and at the subject's last token of "{subject} is a"."""
        model = self.rows.model
        last = self.rows.onward(layer, after)
        row, place = (index.to(last.device) for index in self._read)
        spoken = model.unembed(last[row, place])
        spoken = spoken.to(_fine(spoken.dtype)).log_softmax(-1)
        return spoken[:-1].reshape(self.n_contexts, len(self.target), -1), spoken[-1]


def search(
    question: Question,
    layer: int,
    captured: Captured,
    config: ValueConfig,
    *,
    place: Place = "mlp",
    progress: Progress | None = None,
) -> Value:
    """Adam on δ from 0, added at the subject's last token in every row; δ and the loss are float32 at least.

    Loss = mean over contexts of the mean token NLL of the target + κ · KL(p_δ ‖ p₀) + w · ‖δ‖ / ‖h₀‖². h₀ is the bare
    prompt's value; the target value is h₀ + δ. After each step δ is scaled back to ‖δ‖ ≤ c · ‖h₀‖.

    place: "mlp" adds δ to the down-projection's output, "hidden" to the block's. captured: the question's rows at this
    layer.
    progress(step, steps, loss) is called after each loss; what it raises ends the search.

    Raises EditError for a loss that is not finite, and for a layer whose change cannot reach the answer.
    Source: ROME (arXiv 2202.05262) equation 4; MEMIT (arXiv 2210.07229) equation 16 for "hidden".
    """
    begun = time.perf_counter()
    if layer == question.rows.model.n_layers - 1 and not question.at_subject:
        raise EditError(
            f"layer {layer} is the last one: what it does to the subject cannot reach an answer further on; choose an "
            "earlier layer"
        )
    shifted = _shift(question.rows.model, layer, captured, place)
    start = captured.values[0] if place == "mlp" else captured.after[0, 0]
    initial = start.to(_fine(start.dtype))
    size = initial.norm()
    losses: list[float] = []
    with torch.enable_grad():
        delta = torch.zeros_like(initial, requires_grad=True)
        optimiser = torch.optim.Adam([delta], lr=config.learning_rate)
        unchanged: Tensor | None = None
        for step in range(config.steps):
            spoken, essence = question.log_probabilities(layer, shifted(delta))
            unchanged = essence.detach() if unchanged is None else unchanged
            said = spoken.gather(-1, question.target.to(spoken.device).expand(len(spoken), -1)[..., None])
            drift = functional.kl_div(unchanged, essence, log_target=True, reduction="sum")
            penalty = config.decay * delta.norm() / size**2
            loss = -said.mean() + config.kl * drift + penalty.to(said.device)
            losses.append(float(loss.detach()))
            if not bool(torch.isfinite(loss)):
                raise EditError(
                    f"the value search at layer {layer} failed in step {step + 1}: the loss is {losses[-1]} "
                    "(a lower learning rate, or float32 weights, may help)"
                )
            log.debug("step %d of %d: loss %.4f", step + 1, config.steps, losses[-1])
            if progress is not None:
                progress(step + 1, config.steps, losses[-1])
            if losses[-1] < config.stop_loss or step + 1 == config.steps:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                delta.mul_((config.clamp * size / delta.norm()).clamp(max=1.0).nan_to_num(1.0))
    found = delta.detach()
    return Value(
        target=initial + found,
        delta=found,
        initial=initial,
        losses=tuple(losses),
        stopped_early=losses[-1] < config.stop_loss,
        seconds=time.perf_counter() - begun,
    )


def _shift(
    model: LanguageModel, layer: int, captured: Captured, place: Place
) -> Callable[[Float[Tensor, " d_model"]], Float[Tensor, "rows n d_model"]]:
    """The block's outputs as a function of δ."""
    after, values = captured.after, captured.values
    contribution = model.output("mlp", layer)
    normed = place == "mlp" and contribution is not model.down_projection(layer)
    before = contribution(values).detach() if normed else None
    fine = _fine(after.dtype)

    def shifted(delta: Tensor) -> Tensor:
        if before is None:
            added = delta
        else:  # what the down-projection puts out goes through a norm before it is added to the residual stream
            added = contribution((values.to(fine) + delta).to(values.dtype)).to(fine) - before.to(fine)
        first = (after[:, 0].to(fine) + added).to(after.dtype)
        return torch.cat([first[:, None], after[:, 1:]], dim=1)

    return shifted


def _fine(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
