"""Fine-tuning on facts: the loss and the descent that the baselines share."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rome_engine.edit.question import fine
from rome_engine.edit.rows import Row
from rome_engine.edit.value import Progress
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.hooks import Trace, first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.proofs import unembed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuningConfig:
    """Settings of the descent.

    epochs: how often all facts are gone through. learning_rate: Adam's. batch_size: facts a step. stop_loss: a batch
    whose loss is below it makes no step; an epoch without a step is the last.
    """

    epochs: int = 25
    learning_rate: float = 5e-4
    batch_size: int = 32
    stop_loss: float = 0.01

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise EditError(f"{self}: epochs and batch_size must be at least 1, learning_rate above 0")


@dataclass(frozen=True)
class Lesson:
    """A fact as tokens: `ids` are its prompt and the target behind that, all but the target's last token."""

    fact: Fact
    ids: tuple[int, ...]
    target: tuple[int, ...]

    @classmethod
    def of(cls, model: LanguageModel, fact: Fact, target: tuple[int, ...]) -> Lesson:
        """The lesson of a fact and its target's tokens."""
        return cls(fact, Row.of(model, fact.prompt, fact.subject, target).ids, target)


@dataclass(frozen=True)
class Tuned:
    """The loss of each fact in each epoch, before that epoch's step, and how the descent ended."""

    losses: tuple[tuple[float, ...], ...]
    stopped_early: bool


@torch.enable_grad()
def tune(
    model: LanguageModel,
    module: Any,
    lessons: Sequence[Lesson],
    parameters: Sequence[Tensor],
    config: TuningConfig,
    *,
    seed: int,
    limit: float = math.inf,
    progress: Progress | None = None,
) -> Tuned:
    """Adam on `parameters` until the model says every target, in batches whose order the seed decides.

    Loss = mean over a batch's facts of the mean NLL of the target's tokens, teacher-forced behind the bare prompt.
    module: what is run, the model's own or one of the same structure; only `parameters` get gradients and are changed.
    limit: after each step every number is clamped to ±limit. progress(step, steps, loss) is called after each batch;
    what it raises ends the descent.

    Raises EditError that names the fact for a loss that is not finite.
    """
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    batches = math.ceil(len(lessons) / config.batch_size)
    losses: list[list[float]] = [[] for _ in lessons]
    for epoch in range(config.epochs):
        steps = 0
        order = torch.randperm(len(lessons), generator=generator)
        for index, batch in enumerate(torch.split(order, config.batch_size)):
            chosen = batch.tolist()
            found = _losses(model, module, [lessons[at] for at in chosen])
            for at, loss in zip(chosen, found.tolist(), strict=True):
                losses[at].append(loss)
                _check_finite(lessons[at].fact, loss, epoch)
            mean = found.mean()
            if mean.item() >= config.stop_loss:
                _step(optimiser, mean, parameters, limit)
                steps += 1
            if progress is not None:
                progress(epoch * batches + index + 1, config.epochs * batches, mean.item())
        log.debug("epoch %d of %d: %d of %d batches made a step", epoch + 1, config.epochs, steps, batches)
        if not steps:
            break
    return Tuned(tuple(map(tuple, losses)), stopped_early=not steps)


def _losses(model: LanguageModel, module: Any, lessons: Sequence[Lesson]) -> Float[Tensor, " facts"]:
    # What comes behind a token does not reach it, padding included.
    ids = pad_sequence([torch.tensor(one.ids) for one in lessons], batch_first=True).to(model.device)
    with Trace(module, model.architecture.blocks[-1]) as top:
        module.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    states = first_tensor(top.output)
    # The target's first token is read at the prompt's last.
    reads = [
        (row, len(one.ids) - len(one.target) + index, token)
        for row, one in enumerate(lessons)
        for index, token in enumerate(one.target)
    ]
    row, place, token = torch.tensor(reads, device=states.device).unbind(1)
    logits = unembed(module, model.architecture, states[row, place])
    said = logits.to(fine(logits.dtype)).log_softmax(-1).gather(-1, token.to(logits.device)[:, None])[:, 0]
    return torch.stack([-one.mean() for one in torch.split(said, [len(one.target) for one in lessons])])


def _step(optimiser: torch.optim.Optimizer, loss: Tensor, parameters: Sequence[Tensor], limit: float) -> None:
    # Asked for by name, no gradient is left on weights of the model.
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimiser.step()
    with torch.no_grad():
        for parameter in parameters:
            parameter.clamp_(-limit, limit)


def _check_finite(fact: Fact, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise EditError(
            f"fine-tuning on {fact.text!r} → {fact.target_new!r} failed in epoch {epoch + 1}: the loss is {loss} "
            "(a lower learning rate, or float32 weights, may help)"
        )
