"""The value search: the one optimiser that finds what a layer should put out at the subject's last token.

It serves every closed-form method, and many facts at once. Only what depends on the changes δ is computed in a step:
the tokens from the subject's last one on, in the layers above the edited one, and the logits that the losses read. The
facts of a batch know nothing of each other: each has its own δ, loss, clamp and end.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from rome_engine.edit.question import Batch, Question, fine
from rome_engine.edit.rows import Captured
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.hooks import EditOutput, Trace, first_tensor, with_first_tensor

log = logging.getLogger(__name__)

Place = Literal["mlp", "hidden", "both"]
Progress = Callable[[int, int, float], None]


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
    """What the search found, on the CPU: `target` = `initial` + `delta`, the loss of every step, and how it ended.

    seconds: the fact's share of the time that its batch took.
    """

    target: Float[Tensor, " d_model"]
    delta: Float[Tensor, " d_model"]
    initial: Float[Tensor, " d_model"]
    losses: tuple[float, ...]
    stopped_early: bool
    seconds: float


def search(
    batch: Batch,
    layer: int,
    config: ValueConfig,
    *,
    place: Place = "mlp",
    progress: Progress | None = None,
) -> Iterator[tuple[Question, Value]]:
    """Adam on each fact's δ from 0, added at the subject's last token in its rows; each fact as soon as it is done.

    Loss = mean over contexts of the mean token NLL of the target + κ · KL(p_δ ‖ p₀) + w · ‖δ‖ / ‖h₀‖². h₀ is the bare
    prompt's value; the target value is h₀ + δ. After each step δ is scaled back to ‖δ‖ ≤ c · ‖h₀‖. δ and the loss are
    float32 at least.

    place: "mlp" adds δ to the down-projection's output, "hidden" to the block's. "both" has a second δ, with a penalty
    and a clamp of its own, added to what the attention of the layer adds; it helps the search and is not given.
    progress(step, steps, loss) is called after each step with the mean loss; what it raises ends the search.

    Raises EditError that names the fact for a loss that is not finite, after what was done has been given; and for a
    layer whose change cannot reach the answer.
    Source: ROME (arXiv 2202.05262) equation 4; MEMIT (arXiv 2210.07229) equation 16 for "hidden"; PMET (arXiv
    2308.08742) section 4 for "both".
    """
    _check_reach(batch, layer)
    clock = time.perf_counter()
    captured = batch.rows.capture(layer)
    start = _start(captured, place)[batch.bare]
    searched = [_Searched(question, initial) for question, initial in zip(batch.questions, start, strict=True)]
    optimiser = torch.optim.Adam([one.delta for one in searched], lr=config.learning_rate)
    unchanged: Tensor | None = None
    for step in range(1, config.steps + 1):
        losses, essence = _losses(batch, layer, captured, searched, unchanged, config, place)
        unchanged = essence.detach() if unchanged is None else unchanged
        now = losses.tolist()
        for one, loss in zip(searched, now, strict=True):
            one.losses.append(loss)
        log.debug("step %d of %d: mean loss %.4f of %d facts", step, config.steps, sum(now) / len(now), len(now))
        if progress is not None:
            progress(step, config.steps, sum(now) / len(now))
        lost = [one for one in searched if not math.isfinite(one.losses[-1])]
        more = [] if step == config.steps else [at for at, loss in enumerate(now) if not loss < config.stop_loss]
        if more and not lost:
            _move(optimiser, losses, searched, more, config)
        # A step's time is shared by the facts that were in it.
        clock, spent = time.perf_counter(), time.perf_counter() - clock
        for one in searched:
            one.seconds += spent / len(searched)
        for at, one in enumerate(searched):
            if at not in more and one not in lost:
                yield one.question, one.value(config)
        if lost:
            raise EditError(
                f"the value search of {_named(lost[0].question.fact)} at layer {layer} failed in step {step}: the loss "
                f"is {lost[0].losses[-1]} (a lower learning rate, or float32 weights, may help)"
            )
        if not more:
            return
        if len(more) < len(searched):  # the rows of those that are done leave the batch
            captured, batch = captured.take(batch.rows_of(more)), batch.take(more)
            searched, unchanged = [searched[at] for at in more], unchanged[more]


def lowest(layer: int, place: Place) -> int:
    """The lowest layer whose block is run at each step."""
    return layer if place == "both" else layer + 1


def _start(captured: Captured, place: Place) -> Float[Tensor, "rows parts d_model"]:
    """What the δ are added to: the value first."""
    if place == "both":
        return torch.stack([captured.values, captured.attended], dim=1)
    return captured.values[:, None] if place == "mlp" else captured.after[:, :1]


@dataclass(eq=False)
class _Searched:
    """A fact's δ, a row each where there are several, and what is known of its search so far."""

    question: Question
    initial: Float[Tensor, "parts d_model"]
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.initial = self.initial.to(fine(self.initial.dtype))
        self.size = self.initial.norm(dim=-1)
        self.delta = torch.zeros_like(self.initial, requires_grad=True)

    def value(self, config: ValueConfig) -> Value:
        initial, delta = self.initial[0].cpu().clone(), self.delta[0].detach().cpu().clone()
        return Value(
            target=initial + delta,
            delta=delta,
            initial=initial,
            losses=tuple(self.losses),
            stopped_early=self.losses[-1] < config.stop_loss,
            seconds=self.seconds,
        )


@torch.enable_grad()
def _losses(
    batch: Batch,
    layer: int,
    captured: Captured,
    searched: Sequence[_Searched],
    unchanged: Tensor | None,
    config: ValueConfig,
    place: Place,
) -> tuple[Float[Tensor, " facts"], Float[Tensor, "facts d_vocab"]]:
    """Each fact's loss; and the log-probabilities behind each subject alone, with which the drift is measured."""
    deltas = torch.stack([one.delta for one in searched])
    spoken, essence = batch.log_probabilities(layer, _shifted(batch, layer, captured, deltas, place))
    likelihood = torch.stack([said.mean() for said in spoken])
    before = essence.detach() if unchanged is None else unchanged
    drift = functional.kl_div(before, essence, log_target=True, reduction="none").sum(-1)
    penalty = (config.decay * deltas.norm(dim=-1) / torch.stack([one.size for one in searched]) ** 2).sum(-1)
    return config.kl * drift - likelihood + penalty.to(drift.device), essence


def _shifted(
    batch: Batch, layer: int, captured: Captured, deltas: Float[Tensor, "facts parts d_model"], place: Place
) -> Float[Tensor, "rows n d_model"]:
    """The block's outputs with each fact's δ in its rows."""
    model, after, values = batch.model, captured.after, captured.values
    precise = fine(after.dtype)
    added = deltas[batch.facts.to(deltas.device)]
    if place == "both":
        # The MLP sees what the attention's δ makes of its input: the block is run again.
        down, attention = model.down_projection(layer), model.output("attn", layer)
        with Trace(down, edit_output=_adding(added[:, 0])), Trace(attention, edit_output=_adding(added[:, 1])):
            return batch.rows.block(layer, captured.before)
    move = added[:, 0]
    contribution = model.output("mlp", layer)
    if place == "mlp" and contribution is not model.down_projection(layer):
        # What the down-projection puts out goes through a norm before it is added to the residual stream.
        with torch.no_grad():
            before = contribution(values).to(precise)
        move = contribution((values.to(precise) + move).to(values.dtype)).to(precise) - before
    first = (after[:, 0].to(precise) + move).to(after.dtype)
    return torch.cat([first[:, None], after[:, 1:]], dim=1)


def _adding(added: Float[Tensor, "rows d_model"]) -> EditOutput:
    """Adds to each row's first token in a module's output."""

    def edit(output: Any, _layer: str | None) -> Any:
        given = first_tensor(output)
        states = given.reshape(len(added), -1, added.shape[-1])  # some families flatten rows and tokens
        first = (states[:, 0].to(added.dtype) + added.to(states.device)).to(states.dtype)
        return with_first_tensor(output, torch.cat([first[:, None], states[:, 1:]], dim=1).reshape(given.shape))

    return edit


@torch.no_grad()
def _move(
    optimiser: torch.optim.Optimizer,
    losses: Float[Tensor, " facts"],
    searched: Sequence[_Searched],
    more: Sequence[int],
    config: ValueConfig,
) -> None:
    """One step of the facts `more`; a δ without a gradient stays where it is."""
    moving = [searched[at] for at in more]
    wanted = torch.zeros_like(losses)
    wanted[more] = 1
    for one, gradient in zip(moving, torch.autograd.grad(losses, [one.delta for one in moving], wanted), strict=True):
        one.delta.grad = gradient
    optimiser.step()
    for one in moving:
        one.delta.grad = None
        scale = (config.clamp * one.size / one.delta.norm(dim=-1)).clamp(max=1.0).nan_to_num(1.0)
        one.delta.mul_(scale[:, None])


def _check_reach(batch: Batch, layer: int) -> None:
    late = [question.fact for question in batch.questions if not question.at_subject]
    if layer == batch.model.n_layers - 1 and late:
        raise EditError(
            f"layer {layer} is the last one: what it does to the subject cannot reach the answer to {_named(late[0])}, "
            "which is further on; choose an earlier layer"
        )


def _named(fact: Fact) -> str:
    return f"{fact.text!r} → {fact.target_new!r}"
