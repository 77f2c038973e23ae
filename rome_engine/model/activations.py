"""Reading named activations of one forward pass: `run_with_cache`.

Names are chosen by glob patterns, such as "blocks.*.mlp" or ("embed", "blocks.1[0-5].hidden"):

    embed             what the first block is given
    blocks.L.pre      the block's input
    blocks.L.heads    the heads' outputs, the input of the attention's output projection (rows, tokens, heads, d_head)
    blocks.L.attn     what attention adds to the residual stream
    blocks.L.mid      the residual stream after attention, pre + attn (not in parallel blocks)
    blocks.L.key      the input of the MLP's down-projection
    blocks.L.value    its output
    blocks.L.mlp      what the MLP adds to the residual stream
    blocks.L.hidden   the block's output
    final             after the final norm
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rome_engine.errors import ActivationError
from rome_engine.model.heads import heads_proven
from rome_engine.model.hooks import Trace, first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.sites import Patterns, Site, chosen, sites
from rome_engine.model.tokens import BosPolicy, Prompt


@dataclass(frozen=True, eq=False)
class Activations(Mapping[str, Tensor]):
    """Tensors of one forward pass by name, each (rows, tokens, width); heads (rows, tokens, heads, d_head).

    They are copies, cut from the graph, in the model's dtype and on its devices.
    """

    prompts: tuple[Prompt, ...]
    logits: Float[Tensor, "rows tokens d_vocab"]
    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@torch.no_grad()
def run_with_cache(
    model: LanguageModel,
    prompts: str | Prompt | Sequence[str | Prompt],
    pattern: Patterns = "*",
    *,
    bos: BosPolicy = "never",
) -> Activations:
    """One forward pass over prompts of one length, and the activations whose names match the pattern (or patterns).

    bos: for prompts given as text, see `tokens.tokenize`. Inside `patched` the values are the patched ones.
    Raises ActivationError for a pattern that matches nothing and for prompts of different lengths, PromptError and its
    kinds for prompts.
    """
    tokenized = _tokenized(model, prompts, bos)
    ids = model.ids(*tokenized)
    tensors, output = read(model, pattern, ids, model.module)
    return Activations(tokenized, output.logits.detach(), tensors)


@torch.no_grad()
def read(
    model: LanguageModel, pattern: Patterns, ids: Int[Tensor, "rows tokens"], forward: Any
) -> tuple[dict[str, Tensor], Any]:
    """The activations of one pass of these tokens, and its output; `forward` is the model or its part before the head.

    Raises ActivationError for a pattern that matches nothing.
    """
    available = {site.name: site for site in sites(model)}
    wanted = chosen(list(available.values()), pattern)
    needed = {name for site in wanted for name in _summands(site)}
    with ExitStack() as stack:
        hooks = {name: stack.enter_context(_reader(model, available[name])) for name in available if name in needed}
        output = forward(input_ids=ids, use_cache=False)
    kept: dict[str, Tensor] = {}
    for name, hook in hooks.items():
        site = available[name]
        kept[name] = shaped(model, site, first_tensor(hook.input if site.is_input else hook.output), tuple(ids.shape))
    return {site.name: _total(kept, _summands(site)) for site in wanted}, output


def shaped(model: LanguageModel, site: Site, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A view with its rows and tokens apart (OPT's MLP has them in one), and its heads."""
    tensor = tensor if tensor.ndim > 2 else tensor.reshape(*shape[:2], -1)
    return tensor.reshape(*tensor.shape[:-1], -1, heads_proven(model)) if site.kind == "heads" else tensor


def _summands(site: Site) -> tuple[str, ...]:
    """The names of what is read for a site: a mid passes no module, it is a sum."""
    return (f"blocks.{site.layer}.pre", f"blocks.{site.layer}.attn") if site.kind == "mid" else (site.name,)


def _total(kept: Mapping[str, Tensor], summands: tuple[str, ...]) -> Tensor:
    first, *others = (kept[name] for name in summands)
    for other in others:
        first = first + other.to(first.device)
    return first


def _reader(model: LanguageModel, site: Site) -> Trace:
    return Trace(
        model.module,
        site.path,
        retain_input=site.is_input,
        retain_output=not site.is_input,
        clone=True,
        detach=True,
    )


def _tokenized(
    model: LanguageModel, prompts: str | Prompt | Sequence[str | Prompt], bos: BosPolicy
) -> tuple[Prompt, ...]:
    several = [prompts] if isinstance(prompts, (str, Prompt)) else list(prompts)
    found = tuple(model.tokenize(prompt, bos=bos) if isinstance(prompt, str) else prompt for prompt in several)
    lengths = sorted({len(prompt.input_ids) for prompt in found})
    if len(lengths) != 1:
        raise ActivationError(
            f"the prompts have different numbers of tokens ({', '.join(map(str, lengths))}): run those of each length "
            "together, or one at a time"
            if lengths
            else "there is no prompt: give at least one"
        )
    return found
