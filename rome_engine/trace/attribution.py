"""Direct logit attribution: a logit as the sum of what every part of the model writes into it.

The residual stream is a sum, and with the final norm's scale held at its actual value the logit is a linear function of
it (Elhage et al. 2021; nostalgebraist 2020). Effects that pass through later layers count for those layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rome_engine.errors import TargetError, UnsupportedModelError
from rome_engine.files import plain
from rome_engine.model.activations import Activations, run_with_cache
from rome_engine.model.architecture import is_conv1d
from rome_engine.model.heads import attention_projection, heads_proven
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.norms import FLOOR, frozen
from rome_engine.model.offload import in_memory
from rome_engine.model.proofs import TOLERANCE
from rome_engine.model.tokens import BosPolicy
from rome_engine.trace import provenance


@dataclass(frozen=True)
class Contribution:
    """What one part adds to the logit.

    `component`: embedding, attention, head, attention_bias, mlp, norm_bias or unembedding_bias. `layer` and `head` are
    None where there is none. An attention_bias is all that a layer's attention adds but its heads: the biases of its
    output projection and of a norm after that.
    """

    component: str
    layer: int | None
    head: int | None
    value: float


@dataclass(frozen=True, eq=False)
class Attribution:
    """The contributions to the answer's logit at the last position, or to its lead over the foil's.

    `logit` is the model's own value before a softcap, the sum of the contributions but for `residual`; `capped` is that
    after it, and equal to `logit` where the model has none. Units: logits.
    """

    model: str
    prompt: str
    tokens: tuple[str, ...]
    answer: str
    answer_id: int
    foil: str | None
    foil_id: int | None
    contributions: tuple[Contribution, ...]
    logit: float
    capped: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The sum of the contributions."""
        return sum(part.value for part in self.contributions)

    @property
    def residual(self) -> float:
        """logit - total: rounding."""
        return self.logit - self.total

    def rows(self) -> list[dict[str, Any]]:
        """The tidy table: one row a contribution, in the order of the forward pass."""
        return [
            {"component": part.component, "layer": part.layer, "head": part.head, "value": part.value}
            for part in self.contributions
        ]

    def to_dict(self) -> dict[str, Any]:
        """The attribution as a JSON object."""
        return {**plain(self), "total": self.total, "residual": self.residual}


@torch.no_grad()
def attribute(
    model: LanguageModel,
    prompt: str,
    *,
    answer: str | None = None,
    foil: str | None = None,
    heads: bool = False,
    bos: BosPolicy = "never",
) -> Attribution:
    """What the embedding, every attention and every MLP add to the answer's logit at the last position.

    answer: a text whose first token counts; without one, the model's own next token. foil: another one, whose logit is
    taken away: what favours the answer over it. heads: attention layers head by head, and their biases. bos: see
    `tokens.tokenize`.
    Raises PromptError and its kinds, TargetError where the foil is the answer; UnsupportedModelError where a norm or
    the heads are not of a form that can be attributed, or the contributions do not add up.
    """
    if heads:
        heads_proven(model)  # names the reason where it does not hold
    tokenized = model.tokenize(prompt, bos=bos)
    kinds = ("pre", "hidden", "attn", "mlp", *(("heads",) if heads else ()))
    seen = run_with_cache(model, tokenized, ("final", *(f"blocks.*.{kind}" for kind in kinds)))
    logits = seen.logits[0, -1]
    answer_id = int(logits.argmax()) if answer is None else model.target_ids(tokenized.text, answer)[0]
    foil_id = None if foil is None else model.target_ids(tokenized.text, foil)[0]
    if answer_id == foil_id:
        raise TargetError(f"the foil {foil!r} begins with the same token as the answer: name another one")

    readout = _readout(model, seen, [answer_id] if foil_id is None else [answer_id, foil_id])
    parts = _contributions(model, seen, readout, heads)
    found = Attribution(
        model=model.name,
        prompt=tokenized.text,
        tokens=tokenized.tokens,
        answer=model.text([answer_id]),
        answer_id=answer_id,
        foil=None if foil_id is None else model.text([foil_id]),
        foil_id=foil_id,
        contributions=tuple(parts),
        logit=readout.logit,
        capped=_difference(logits.double(), [answer_id] if foil_id is None else [answer_id, foil_id]),
        provenance={
            **provenance.of(model, tokenized),
            "bos": bos,
            "heads": heads,
            "softcap": model.architecture.softcap,
            "method": "direct logit attribution at the last position, scales of norms held at their actual values",
            "unit": "logits before a softcap",
        },
    )
    _check(model, found)
    return found


@dataclass(frozen=True, eq=False)
class _Readout:
    """logit = direction · residual stream + norm_bias + unembedding_bias."""

    direction: Float[Tensor, " d_model"]
    norm_bias: float
    unembedding_bias: float
    logit: float


def _readout(model: LanguageModel, seen: Activations, chosen: Sequence[int]) -> _Readout:
    """How the last token's residual stream is read as this logit, or this difference of two."""
    architecture = model.architecture
    unembedding: Any = model.module.get_submodule(architecture.unembedding)
    normed, state = seen["final"][0, -1], seen[f"blocks.{model.n_layers - 1}.hidden"][0, -1]
    with in_memory(unembedding):
        weights = unembedding.weight.T if is_conv1d(unembedding) else unembedding.weight
        rows = architecture.logit_scale * weights[list(chosen)].double()
        bias = getattr(unembedding, "bias", None)
        offset = 0.0 if bias is None else architecture.logit_scale * _difference(bias.double(), chosen)
    row = (rows[0] if len(chosen) == 1 else rows[0] - rows[1]).to(normed.device)
    norm = frozen(model.module.get_submodule(architecture.final_norm), state.to(normed.device), normed)
    return _Readout(
        direction=norm.pull_back(row),
        norm_bias=float(row @ norm.bias),
        unembedding_bias=offset,
        logit=architecture.logit_scale * _difference(unembedding(normed).double(), chosen),
    )


def _difference(values: Float[Tensor, " d_vocab"], chosen: Sequence[int]) -> float:
    first, *other = (float(values[token]) for token in chosen)
    return first - sum(other)


def _contributions(model: LanguageModel, seen: Activations, readout: _Readout, heads: bool) -> list[Contribution]:
    def read(name: str) -> float:
        return float(readout.direction @ seen[name][0, -1].to(readout.direction))

    parts = [Contribution("embedding", None, None, read("blocks.0.pre"))]
    for layer in range(model.n_layers):
        if heads:
            parts += _heads(model, seen, readout.direction, layer)
        else:
            parts.append(Contribution("attention", layer, None, read(f"blocks.{layer}.attn")))
        parts.append(Contribution("mlp", layer, None, read(f"blocks.{layer}.mlp")))
    parts.append(Contribution("norm_bias", None, None, readout.norm_bias))
    parts.append(Contribution("unembedding_bias", None, None, readout.unembedding_bias))
    return parts


def _heads(model: LanguageModel, seen: Activations, direction: Tensor, layer: int) -> list[Contribution]:
    """One layer's attention, head by head and the rest; a norm after the projection is frozen like the final one."""
    projection: Any = attention_projection(model, layer)
    inputs = seen[f"blocks.{layer}.heads"][0, -1].double()  # (heads, d_head)
    with in_memory(projection):
        weight = (projection.weight.T if is_conv1d(projection) else projection.weight).double()
        bias = getattr(projection, "bias", None)
        bias = None if bias is None else bias.double()
    added = seen[f"blocks.{layer}.attn"][0, -1]
    direction, rest = direction.to(weight.device), 0.0
    output = model.output("attn", layer)
    if output is not projection:
        projected = projection(seen[f"blocks.{layer}.heads"].flatten(-2))[0, -1]
        norm = frozen(output, projected, added.to(projected.device))
        rest = float(direction @ norm.bias)
        direction = norm.pull_back(direction)
    if bias is not None:
        rest += float(direction @ bias)
    values = ((direction @ weight).reshape(inputs.shape) * inputs.to(weight.device)).sum(-1)
    parts = [Contribution("head", layer, head, value) for head, value in enumerate(values.tolist())]
    return [*parts, Contribution("attention_bias", layer, None, rest)]


def _check(model: LanguageModel, found: Attribution) -> None:
    size = sum(abs(part.value) for part in found.contributions)
    allowed = max(FLOOR, TOLERANCE.get(model.dtype, 6e-2))
    if not abs(found.residual) <= allowed * max(size, 1e-12):
        raise UnsupportedModelError(
            f"{model.architecture.model_class} ({model.architecture.family}): the contributions add up to "
            f"{found.total:.6g}, the logit is {found.logit:.6g} (allowed difference {allowed * size:.2g}): its logits "
            "cannot be attributed; where they are not finite, load the model in a wider type (--dtype float32)"
        )
