"""Numerical proofs that a model is put together as its `Architecture` says.

Every claim the engine relies on is checked on the model itself, at load. What cannot be proven is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rome_engine.errors import UnsupportedModelError
from rome_engine.model.architecture import Architecture, is_conv1d
from rome_engine.model.hooks import Trace, TraceDict, first_tensor, with_first_tensor
from rome_engine.model.offload import device_of, in_memory

# Rounding, not structure: a wrong map is off by the size of the states themselves.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 6e-2, torch.float16: 2e-2}
# A sum of three terms is rounded twice, each time by half a unit in the last place; twice that is allowed.
ROUNDINGS = 2
# A change of the logits, relative to the largest, that no rounding makes.
VISIBLE = 1e-3


@dataclass(frozen=True)
class Proof:
    """One claim, the largest error found relative to the values at stake, and the tolerance it had to keep."""

    claim: str
    error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return self.error <= self.tolerance


@torch.no_grad()
def prove(model: nn.Module, architecture: Architecture) -> tuple[Architecture, tuple[Proof, ...]]:
    """The architecture with `parallel` measured, and one proof a claim.

    Raises UnsupportedModelError that names the model and the first claim that does not hold.
    """
    ids = _probe_ids(architecture, model)
    tolerance = TOLERANCE.get(next(model.parameters()).dtype, 6e-2)
    run = _Run(model, architecture, tolerance)
    # Causality first: of an encoder nothing else is worth saying.
    claims = {
        "earlier tokens do not see later ones": run.causality_error,
        "block output = block input + attention + MLP": run.residual_error,
        "down-projection output = W·key + bias": run.projection_error,
        "logits = unembedding(final norm(last block))": run.unembedding_error,
        "noise at the token embedding reaches the logits": run.embedding_error,
        "a batch equals its rows one by one": run.batch_error,
    }
    proofs = []
    for claim, error in claims.items():
        proof = Proof(claim, error(ids), tolerance)
        if not proof.holds:
            raise UnsupportedModelError(
                f"{architecture.model_class} ({architecture.family}) is not supported: the claim {claim!r} does not "
                f"hold (relative error {proof.error:.2g}, allowed {tolerance:.0e})"
            )
        proofs.append(proof)
    return replace(architecture, parallel=run.is_parallel(ids)), tuple(proofs)


class _Run:
    def __init__(self, model: nn.Module, architecture: Architecture, tolerance: float) -> None:
        self.model, self.architecture, self.tolerance = model, architecture, tolerance

    def logits(self, ids: Int[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens d_vocab"]:
        model: Any = self.model
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits

    def path(self, layer: int, part: str) -> str:
        return self.architecture.path(layer, part)

    def residual_error(self, ids: Tensor) -> float:
        """Relative to a typical entry of the smaller contribution: nothing hides behind a large residual stream.

        Rounding is allowed for entry by entry: a wrong map shows in the entries where the states are small.
        """
        parts = (self.architecture.attention_output, self.architecture.mlp_output, "")
        layers = range(self.architecture.n_layers)
        names = [self.path(layer, part) for layer in layers for part in parts]
        with TraceDict(self.model, names, retain_input=True, clone=True) as seen:
            self.logits(ids)
        worst = 0.0
        for layer in layers:
            attention, mlp, block = (seen[self.path(layer, part)] for part in parts)
            after = first_tensor(block.output)
            added = [first_tensor(part.output).reshape(after.shape).double() for part in (attention, mlp)]
            summands = [part.to(after.device) for part in (block.input.double(), *added)]
            size = min(float(part.abs().mean()) for part in added)
            rounding = ROUNDINGS * torch.finfo(after.dtype).eps * torch.stack(summands).abs().sum(0)
            difference = (torch.stack(summands).sum(0) - after).abs()
            error = (difference / (size + rounding / self.tolerance).clamp_min(1e-30)).max()
            worst = max(worst, _finite(error))
        return worst

    def projection_error(self, ids: Tensor) -> float:
        worst = 0.0
        names = [self.path(layer, self.architecture.down_projection) for layer in range(self.architecture.n_layers)]
        with TraceDict(self.model, names, retain_input=True, clone=True) as seen:
            self.logits(ids)
        for name in names:
            module: Any = self.model.get_submodule(name)
            with in_memory(module):
                weight = module.weight.T if is_conv1d(module) else module.weight
                value = seen[name].input.to(weight.device) @ weight.T + (0 if module.bias is None else module.bias)
            worst = max(worst, _error(value, seen[name].output))
        return worst

    def unembedding_error(self, ids: Tensor) -> float:
        last = self.path(self.architecture.n_layers - 1, "")
        with Trace(self.model, last, clone=True) as block:
            logits = self.logits(ids)
        return _error(unembed(self.model, self.architecture, first_tensor(block.output)), logits)

    def embedding_error(self, ids: Tensor) -> float:
        """0 where a change of the embedding of token 1 changes the logits from there on and nothing before."""

        def shift(output: Tensor, _layer: str | None) -> Tensor:
            changed = output.clone()
            # Uneven over the dimensions: a layer norm takes an even shift out again.
            changed[:, 1] += changed.std() * torch.linspace(-1, 1, changed.shape[-1]).to(changed)
            return changed

        plain = self.logits(ids)
        with Trace(self.model, self.architecture.embedding, edit_output=shift) as embedding:
            shifted = self.logits(ids)
        moved = _error(shifted[:, 1:], plain[:, 1:])
        return _error(shifted[:, :1], plain[:, :1]) if embedding.calls == 1 and moved > VISIBLE else float("inf")

    def causality_error(self, ids: Tensor) -> float:
        other = ids.clone()
        other[:, -1] = (other[:, -1] + 1) % self.architecture.d_vocab
        return _error(self.logits(other)[:, :-1], self.logits(ids)[:, :-1])

    def batch_error(self, ids: Tensor) -> float:
        return _error(self.logits(ids), torch.cat([self.logits(row[None]) for row in ids]))

    def is_parallel(self, ids: Tensor) -> bool:
        """Whether the MLP's key ignores a change of the same block's attention output."""
        key = self.path(0, self.architecture.down_projection)

        def shift(output: Any, _layer: str | None) -> Any:
            tensor = first_tensor(output)
            return with_first_tensor(output, tensor + torch.linspace(-1, 1, tensor.shape[-1]).to(tensor))

        with Trace(self.model, key, retain_input=True, clone=True, stop=True) as plain:
            self.logits(ids)
        with (
            Trace(self.model, key, retain_input=True, clone=True, stop=True) as shifted,
            Trace(self.model, self.path(0, self.architecture.attention_output), edit_output=shift),
        ):
            self.logits(ids)
        return bool(torch.equal(plain.input, shifted.input))


def unembed(
    model: nn.Module,
    architecture: Architecture,
    hidden: Float[Tensor, "*batch d_model"],
    out: Tensor | None = None,
) -> Float[Tensor, "*batch d_vocab"]:
    """The logits of last-block outputs: final norm, unembedding, scale and softcap; in the memory `out` if possible."""
    normed: Tensor = model.get_submodule(architecture.final_norm)(hidden)
    module: Any = model.get_submodule(architecture.unembedding)
    logits: Tensor
    if out is not None and _is_plain_product(module) and out.dtype == normed.dtype == module.weight.dtype:
        flat = normed.reshape(-1, normed.shape[-1])
        logits = torch.mm(flat, module.weight.T, out=out[: flat.shape[0]]).view(*normed.shape[:-1], -1)
    else:
        logits = module(normed)
    if architecture.logit_scale != 1:
        logits = logits * architecture.logit_scale
    if architecture.softcap is not None:
        logits = architecture.softcap * torch.tanh(logits / architecture.softcap)
    return logits


def _is_plain_product(module: Any) -> bool:
    """A linear layer without bias that nobody has changed, offloaded or put a hook on."""
    if type(module) is not nn.Linear or "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
        return False
    return bool(module.bias is None) and bool(module.weight.device.type == "cpu")


def _error(value: Tensor, reference: Tensor) -> float:
    """Largest difference, relative to the largest reference value; infinite where either is not finite."""
    value, reference = value.double(), reference.double().to(value.device)
    difference = (value - reference).abs().max() / reference.abs().max().clamp_min(1e-12)
    return _finite(difference)


def _finite(error: Tensor) -> float:
    return float(error) if bool(torch.isfinite(error)) else float("inf")


def _probe_ids(architecture: Architecture, model: nn.Module) -> Int[Tensor, "rows tokens"]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(10, architecture.d_vocab // 2), architecture.d_vocab, (3, 7), generator=generator)
    return ids.to(device_of(model.get_submodule(architecture.embedding)))
