"""Attribution patching: the first-order effect of exchanging any one state, from one forward and one backward pass.

The effect of putting the state of another run in the place of a state is, to first order, (other - own) · gradient of
the metric at the run that is patched (Nanda 2023; Syed et al. 2023; Kramár et al. 2024, equation 5). It is an
approximation: it misses what a saturated attention or norm does to a large change, and effects that cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import TraceError
from rome_engine.model.heads import attention_projection
from rome_engine.model.hooks import Trace as Hook
from rome_engine.model.hooks import first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace.baseline import Baseline
from rome_engine.trace.metrics import METRICS, measure
from rome_engine.trace.plan import Direction, base_run, source_run

SMOOTH = ("log_probability", "probability", "logit_difference")
"""The metrics that have a useful gradient: a rank has none, and KL to the clean run has none at the clean run."""

# The pass with gradients is the baseline's pass in another batch: rounding alone tells them apart.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}


def check_metric(metric: str, foil: object) -> None:
    """Raises TraceError for a metric without a gradient, and for logit_difference without a foil."""
    if metric not in SMOOTH:
        raise TraceError(f"there is no gradient of the metric {metric!r}: choose {', '.join(SMOOTH)}")
    if metric == "logit_difference" and foil is None:
        raise TraceError("the metric logit_difference compares two answers: name the wrong one as foil")


def first_order(
    model: LanguageModel,
    baseline: Baseline,
    metric: str = "log_probability",
    direction: Direction = "restore",
) -> dict[str, Tensor]:
    """First-order change of the metric where one state of the patched run is exchanged, averaged over the samples.

    "hidden", "pre", "mlp", "attn" have shape (tokens, layers), and "head" (heads, tokens, layers) where the baseline
    was run with heads; float64, on the CPU, in the metric's unit. tokens are the prompt's. For several states exchanged
    together the sum is no more than a guide: what passes from one to another is counted twice.
    Only states have gradients, no weight; it takes the memory of one forward pass with gradients, and that of all
    offloaded weights until the backward pass is done. The model is afterwards as before, also after an error.

    Raises TraceError for a metric without a gradient, and for a model through which none can be taken.
    """
    check_metric(metric, baseline.question.foil)
    changes = _Pass(model, baseline, metric, direction).changes()
    tokens, layers = len(baseline.prompt.input_ids), range(model.n_layers)

    def table(component: str, first: int = 0) -> Tensor:
        return torch.stack([changes[component, layer + first] for layer in layers], dim=-1)[:tokens]

    found = {kind: table(kind) for kind in ("hidden", "mlp", "attn")}
    found["pre"] = table("hidden", -1)
    if "head" in baseline.states:
        found["head"] = table("head").movedim(1, 0)  # (heads, tokens, layers)
    return found


class _Pass:
    """The patched run's rows, forward and backward; each gradient is used as it comes by, and not kept."""

    def __init__(self, model: LanguageModel, baseline: Baseline, metric: str, direction: Direction) -> None:
        self.model, self.baseline, self.metric = model, baseline, metric
        self.own, self.other = baseline.rows(base_run(direction)), baseline.rows(source_run(direction))
        self.kept: dict[tuple[str, int], Tensor] = {}

    @torch.enable_grad()
    def changes(self) -> dict[tuple[str, int], Tensor]:
        """The change by component and layer, (tokens,) or (tokens, heads); "hidden" at -1 is what goes in."""
        baseline = self.baseline
        given = baseline.embedded[self.own].detach().clone().requires_grad_()
        with ExitStack() as stack:
            # A copy goes in: a block may change its input in place, which a leaf does not allow.
            feed = Hook(self.model.blocks[0], edit_input=lambda *_: given.clone(), retain_output=False)
            hooks = [stack.enter_context(feed), *(stack.enter_context(hook) for hook in self._taps())]
            top = stack.enter_context(Hook(self.model.blocks[-1]))
            self.model.module.base_model(input_ids=baseline.ids[self.own], use_cache=False)
        if any(hook.calls != 1 for hook in hooks):
            raise TraceError("a state did not pass exactly once: the model's forward is not plain")
        logits = self.model.unembed(first_tensor(top.output)[:, baseline.first_scored :])
        scores = measure(logits, replace(baseline.question, clean=None))[:, METRICS.index(self.metric)]
        self._check(scores.detach())
        (gradient,) = torch.autograd.grad(scores.sum(), given)
        self._keep("hidden", -1, gradient)
        wanted = 1 + self.model.n_layers * len(baseline.states)
        if len(self.kept) != wanted or not all(bool(change.isfinite().all()) for change in self.kept.values()):
            raise TraceError(
                f"the gradients of {self.model.name} are missing or not finite: load it in a wider type (--dtype "
                "float32), or trace without a screen"
            )
        return self.kept

    def _taps(self) -> list[Hook]:
        """Hooks on every block output, MLP, attention, and the heads' outputs where the baseline has them."""
        hooks = []
        for layer in range(self.model.n_layers):
            for kind in ("hidden", "mlp", "attn"):
                tap = self._tap(kind, layer)
                hooks.append(Hook(self.model.output(kind, layer), edit_output=tap, retain_output=False))
            if "head" in self.baseline.states:
                projection = attention_projection(self.model, layer)
                hooks.append(Hook(projection, edit_input=self._tap("head", layer), retain_output=False))
        return hooks

    def _tap(self, component: str, layer: int) -> Callable[[Any, str | None], Any]:
        def run(value: Any, _layer: str | None) -> Any:
            tensor = first_tensor(value)
            if not tensor.requires_grad:
                raise TraceError(
                    f"no gradient reaches {component} of layer {layer}: the model's forward cuts it off; trace without "
                    "a screen"
                )
            # Such a hook is given the gradient of the tensor as it is now, whatever is done to it in place later.
            tensor.register_hook(partial(self._keep, component, layer))  # type: ignore[no-untyped-call]
            return value

        return run

    def _keep(self, component: str, layer: int, gradient: Tensor) -> None:
        """What exchanging the state at each token changes: (tokens,), or (tokens, heads)."""
        baseline = self.baseline
        states = baseline.embedded if layer < 0 else baseline.states[component][layer]
        slope = gradient.reshape(-1, baseline.tokens, states.shape[-1]).double()  # OPT has rows and tokens in one
        product = (states[self.other].double() - states[self.own].double()).to(slope.device) * slope
        if component == "head":
            product = product.reshape(*product.shape[:2], self.model.architecture.n_heads, -1)
        self.kept[component, layer] = product.sum(-1).mean(0).cpu()

    def _check(self, scores: Float[Tensor, " rows"]) -> None:
        """The pass must be the baseline's: gradients of another run would say nothing."""
        expected = self.baseline.scores[self.own, METRICS.index(self.metric)]
        error = float(((scores - expected).abs() / (1 + expected.abs())).max())
        if not error <= _TOLERANCE.get(self.model.dtype, 0.1):
            raise TraceError(
                f"the pass with gradients gives other scores than the run it repeats (by {error:.1e}): trace without "
                "a screen"
            )
