"""Where a decoder's parts are and how they combine, found from the model's structure.

`discover` only proposes; `proofs.prove` shows numerically that the proposal holds for the model at hand. A family whose
structure misleads the search gets one small file in `families/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from rome_engine.errors import UnsupportedModelError


@dataclass(frozen=True)
class Architecture:
    """Module paths and the way the parts combine.

    Paths in `attention`, `attention_projection`, `attention_output`, `down_projection`, `mlp_output` are relative to a
    block; `mlp` is None where the block holds its MLP's layers itself. `*_output` name the module whose output is added
    to the residual stream: the projection itself, or the norm after it (`sandwich`). `parallel`: attention and MLP read
    the same state.
    `softcap`: logits = softcap · tanh(logits / softcap); `logit_scale` multiplies them before.
    """

    family: str
    model_class: str
    embedding: str
    blocks: tuple[str, ...]
    attention: str
    attention_projection: str
    attention_output: str
    mlp: str | None
    down_projection: str
    mlp_output: str
    final_norm: str
    unembedding: str
    parallel: bool
    sandwich: bool
    weight_layout: str
    softcap: float | None
    logit_scale: float
    n_layers: int
    d_model: int
    d_mlp: int
    n_heads: int
    n_kv_heads: int
    d_vocab: int
    context: int | None

    def path(self, layer: int, part: str) -> str:
        """The full path of a part of one block; part "" is the block itself."""
        return f"{self.blocks[layer]}.{part}" if part else self.blocks[layer]


Run = Callable[[], object]


def discover(model: nn.Module, run: Run) -> Architecture:
    """Propose the architecture of an unmodified Hugging Face causal LM.

    run: makes one forward pass of the model (its module calls are watched, its result is not used).
    Raises UnsupportedModelError that names what was not found.
    """
    config: Any = model.config
    text: Any = config.get_text_config() if hasattr(config, "get_text_config") else config
    name = type(model).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder model: only decoder-only causal LMs can be traced or edited"
        )
    experts = [path for path, module in model.named_modules() if "expert" in type(module).__name__.lower()]
    if experts:
        raise UnsupportedModelError(
            f"{name} ({config.model_type}) is a mixture-of-experts model ({experts[0]}): a fact has no single "
            "down-projection there; use a dense model"
        )
    paths = {module: path for path, module in model.named_modules()}
    embedding, unembedding = _embeddings(model, name)
    blocks = _blocks(model, name, getattr(text, "num_hidden_layers", None))
    calls = _watch(model, run)
    block = blocks[0]
    inside = {module: path for path, module in block.named_modules() if path}
    d_model = _width(calls, block)
    attention = _attention(block, inside, calls, name)
    order = [module for module in calls if module in inside]
    projections = [module for module in order if _is_projection(module) and _out_features(module) == d_model]
    within = set(attention.modules())
    projection = _last([module for module in projections if module in within], name, "attention output projection")
    down = _last([module for module in projections if module not in within], name, "MLP down-projection")
    children = dict(block.named_children())
    holder = next((path for path, child in children.items() if down in set(child.modules()) - {child}), None)
    attention_output, mlp_output = _outputs(block, order, calls, projection, down, d_model)
    heads = int(getattr(text, "num_attention_heads", 0) or getattr(text, "n_head", 0))
    softcap = getattr(text, "final_logit_softcapping", None)
    context = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    return Architecture(
        family=str(config.model_type),
        model_class=name,
        embedding=paths[embedding],
        blocks=tuple(paths[module] for module in blocks),
        attention=inside[attention],
        attention_projection=inside[projection],
        attention_output=inside[attention_output],
        mlp=holder,
        down_projection=inside[down],
        mlp_output=inside[mlp_output],
        final_norm=paths[_final_norm(calls, blocks[-1], unembedding, name)],
        unembedding=paths[unembedding],
        parallel=False,
        sandwich=attention_output is not projection or mlp_output is not down,
        weight_layout="linear (d_model, d_mlp)" if isinstance(down, nn.Linear) else "conv1d (d_mlp, d_model)",
        softcap=float(softcap) if softcap else None,
        logit_scale=_logit_scale(text, name),
        n_layers=len(blocks),
        d_model=d_model,
        d_mlp=_in_features(down),
        n_heads=heads,
        n_kv_heads=int(_kv_heads(text) or heads),
        d_vocab=_out_features(unembedding),
        context=None if context is None or _has_no_position_limit(model) else int(context),
    )


def is_conv1d(module: nn.Module) -> bool:
    """Whether the module is transformers' Conv1D, whose weight lies as (in, out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


@dataclass(eq=False)
class _Call:
    input: torch.Tensor | None
    output: torch.Tensor | None


def _watch(model: nn.Module, run: Run) -> dict[nn.Module, _Call]:
    """Each module's first tensor in and out, in the order in which they finished. Copies: outputs get overwritten."""
    calls: dict[nn.Module, _Call] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
        value = output[0] if isinstance(output, (tuple, list)) and output else output
        calls[module] = _Call(
            None if given is None else given.detach().clone(),
            value.detach().clone() if isinstance(value, torch.Tensor) else None,
        )

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in model.modules()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _embeddings(model: Any, name: str) -> tuple[nn.Module, nn.Module]:
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(unembedding, nn.Module):
        raise UnsupportedModelError(
            f"{name} has no language-model head: only causal LMs (decoders that predict the next token) can be traced "
            "or edited"
        )
    if not isinstance(embedding, nn.Module):
        raise UnsupportedModelError(f"{name} has no token embedding that could be found")
    return embedding, unembedding


def _blocks(model: nn.Module, name: str, n_layers: int | None) -> list[nn.Module]:
    lists = [list(module) for module in model.modules() if isinstance(module, nn.ModuleList)]
    fitting = [blocks for blocks in lists if blocks and len({type(block) for block in blocks}) == 1]
    if n_layers:
        fitting = [blocks for blocks in fitting if len(blocks) == n_layers]
    if not fitting:
        raise UnsupportedModelError(f"{name} has no list of like decoder blocks")
    return fitting[0]


def _width(calls: dict[nn.Module, _Call], block: nn.Module) -> int:
    output = calls[block].output if block in calls else None
    if output is None:
        raise UnsupportedModelError(f"the block {type(block).__name__} returned no tensor")
    return int(output.shape[-1])


def _attention(block: nn.Module, inside: dict[nn.Module, str], calls: dict[nn.Module, _Call], name: str) -> nn.Module:
    for child in inside:
        if child in calls and "attention" in type(child).__name__.lower():
            return child
    raise UnsupportedModelError(
        f"{name}: no attention module in the block {type(block).__name__} ({', '.join(inside.values())})"
    )


def _outputs(
    block: nn.Module,
    order: list[nn.Module],
    calls: dict[nn.Module, _Call],
    projection: nn.Module,
    down: nn.Module,
    d_model: int,
) -> tuple[nn.Module, nn.Module]:
    """The two modules whose outputs, added to the block's input, give its output; the projections if no pair does.

    A wrong proposal is caught by the proofs, so the search may stop at the first pair that fits.
    """
    state, result = calls[block].input, calls[block].output
    if state is None or result is None:
        raise UnsupportedModelError(f"the block {type(block).__name__} takes or gives no tensor")
    wide = [module for module in order if _shape_of(calls[module], d_model) and not list(module.children())]
    norms = [module for module in wide if not _is_projection(module) and calls[module].input is not None]
    for attention_output in (projection, *norms):
        for mlp_output in (down, *norms):
            first, second = calls[attention_output].output, calls[mlp_output].output
            if first is None or second is None or attention_output is mlp_output:
                continue
            total = state + first.reshape(state.shape) + second.reshape(state.shape)
            if torch.allclose(total.float(), result.float(), rtol=1e-2, atol=1e-2 * float(result.float().std())):
                return attention_output, mlp_output
    return projection, down


def _shape_of(call: _Call, d_model: int) -> bool:
    return call.output is not None and call.output.shape[-1] == d_model


def _final_norm(calls: dict[nn.Module, _Call], last: nn.Module, unembedding: nn.Module, name: str) -> nn.Module:
    order = list(calls)
    between = order[order.index(last) + 1 : order.index(unembedding)]
    for module in between:
        if "norm" in type(module).__name__.lower():
            return module
    raise UnsupportedModelError(f"{name}: no final norm between the last block and the unembedding")


def _is_projection(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or is_conv1d(module)


def _out_features(module: Any) -> int:
    return int(module.out_features) if isinstance(module, nn.Linear) else int(module.weight.shape[1])


def _in_features(module: Any) -> int:
    return int(module.in_features) if isinstance(module, nn.Linear) else int(module.weight.shape[0])


def _last(modules: list[nn.Module], name: str, what: str) -> nn.Module:
    if not modules:
        raise UnsupportedModelError(f"{name}: no {what} was found in its blocks")
    return modules[-1]


def _logit_scale(text: Any, name: str) -> float:
    scale = getattr(text, "logit_scale", None)
    if scale is None:
        return 1.0
    try:
        return float(scale)
    except ValueError as error:
        raise UnsupportedModelError(f"{name} scales its logits by {scale!r}, which is no number") from error


def _kv_heads(text: Any) -> int | None:
    if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
        return 1
    return getattr(text, "num_key_value_heads", None) or getattr(text, "num_kv_heads", None)


def _has_no_position_limit(model: Any) -> bool:
    return bool(getattr(model.config, "alibi", False)) or model.config.model_type == "bloom"
