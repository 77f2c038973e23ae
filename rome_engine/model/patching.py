"""Patching named activations by a function of one's own: `patched`.

The names are those of `rome_engine.model.activations`; all but `final` can be patched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from rome_engine.errors import ActivationError
from rome_engine.model.activations import shaped
from rome_engine.model.hooks import Trace, first_tensor, with_first_tensor
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.sites import Site, chosen, sites

Patch = Callable[[Tensor, str], Tensor]


@contextmanager
def patched(model: LanguageModel, patches: Mapping[str, Patch]) -> Iterator[None]:
    """A block in which the model computes with patched activations; after it, however left, the model is as before.

    patches: name or glob pattern -> function(tensor, name) that returns what takes the tensor's place, of the same
    shape; tensors are (rows, tokens, width), heads (rows, tokens, heads, d_head), and the function's to change. Where
    several patterns match a name, the functions act in the order given. Patching mid sets the residual stream after
    attention, by way of what attention adds.
    Raises ActivationError for a pattern that matches nothing, for a tensor of another shape, and at the end for a patch
    that never acted although the model ran.
    """
    available = tuple(site for site in sites(model) if site.kind != "final")
    functions: dict[Site, list[Patch]] = {}
    for pattern, function in patches.items():
        for site in chosen(available, pattern):
            functions.setdefault(site, []).append(function)
    acted: Counter[str] = Counter()
    with ExitStack() as stack:
        blocks: dict[int, Trace] = {}
        # In the order of the forward pass: what is patched later sees what was patched before.
        for site in sorted(functions, key=available.index):
            if site.layer is not None and site.kind not in ("embed", "pre") and site.layer not in blocks:
                blocks[site.layer] = stack.enter_context(_watch(model, site.layer))
            _enter(stack, model, site, functions[site], blocks.get(site.layer or 0), acted)
        first = stack.enter_context(Trace(model.blocks[0], retain_output=False))
        yield
    idle = [site.name for site in functions if not acted[site.name]]
    if first.calls and idle:
        raise ActivationError(
            f"the patch of {', '.join(idle[:3])} never acted although the model ran: run it to the end, by its own "
            "forward pass"
        )


def _watch(model: LanguageModel, layer: int) -> Trace:
    """Keeps what the block is given."""
    return Trace(model.blocks[layer], retain_input=True, retain_output=False)


def _enter(
    stack: ExitStack,
    model: LanguageModel,
    site: Site,
    functions: list[Patch],
    block: Trace | None,
    acted: Counter[str],
) -> None:
    def edit(value: Any, _path: str | None) -> Any:
        tensor = first_tensor(value)
        acted[site.name] += 1
        given = shaped(model, site, tensor, tuple(tensor.shape if block is None else block.input.shape))
        if site.kind == "mid" and block is not None:
            before = block.input.to(given.device)
            after = _applied(site, functions, before + given) - before
        else:
            after = _applied(site, functions, given.clone())
        return with_first_tensor(value, after.reshape(tensor.shape))

    stack.enter_context(
        Trace(
            model.module,
            site.path,
            retain_output=False,
            edit_input=edit if site.is_input else None,
            edit_output=None if site.is_input else edit,
        )
    )
    if site.kind == "mid" and site.layer is not None and block is not None:
        stack.callback(_same_input(model.blocks[site.layer], block, site).remove)


def _applied(site: Site, functions: list[Patch], tensor: Tensor) -> Tensor:
    for function in functions:
        shape = tuple(tensor.shape)
        result: Any = function(tensor, site.name)
        if not isinstance(result, Tensor) or tuple(result.shape) != shape:
            what = f"a tensor of shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
            raise ActivationError(f"the patch of {site.name} returned {what}: return a tensor of shape {shape}")
        tensor = result.to(tensor)
    return tensor


def _same_input(module: nn.Module, block: Trace, site: Site) -> Any:
    """A hook that refuses a patch of mid where another hook changed the block's input after it was read."""

    def check(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: Any) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        if given is not block.input:
            raise ActivationError(
                f"{site.name} cannot be patched: another hook changed the block's input; give the patches of its pre "
                "and its mid to one `patched`"
            )

    return module.register_forward_hook(check, with_kwargs=True)
