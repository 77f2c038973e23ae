"""Context-manager hooks on a module's input and output, with the semantics baukit's users know.

`Trace` watches one module, `TraceDict` several. Inside the `with` block the model behaves as edited; after it, however
it is left, every hook is gone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from rome_engine.errors import UnsupportedModelError

EditOutput = Callable[[Any, str | None], Any]
EditInput = Callable[[Any, str | None], Any]


class StopForward(Exception):
    """Ends a forward pass early; the `Trace` that raised it swallows it."""


class Trace:
    """Retains or edits what passes through one module while the `with` block runs.

    module, layer: the module itself, or a root and the dotted name of a module below it (KeyError if there is none).
    retain_output, retain_input: keep the last output (as the module returned it) or first positional input.
    clone, detach: keep a copy, or one cut from the graph; modules may overwrite their output in place, so clone what is
    read later.
    edit_output(output, layer), edit_input(input, layer): return what replaces it.
    stop: end the forward pass after this module; the `with` block is left without an error.
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str | None = None,
        *,
        retain_output: bool = True,
        retain_input: bool = False,
        clone: bool = False,
        detach: bool = False,
        edit_output: EditOutput | None = None,
        edit_input: EditInput | None = None,
        stop: bool = False,
    ) -> None:
        if layer is not None:
            module = submodule(module, layer)
        self.layer = layer
        self.output: Any = None
        self.input: Any = None
        self.calls = 0
        self._stop = stop
        self._handles: list[RemovableHandle] = []

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            name = None if args else next(iter(kwargs), None)
            if not args and name is None:
                return None
            value = args[0] if name is None else kwargs[name]
            if edit_input is not None:
                value = edit_input(value, layer)
            if retain_input:
                self.input = _kept(value, clone, detach)
            if edit_input is None:
                return None
            return ((value, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: value})

        def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
            self.calls += 1
            if edit_output is not None:
                output = edit_output(output, layer)
            if retain_output:
                self.output = _kept(output, clone, detach)
            if stop:
                raise StopForward
            return output

        if retain_input or edit_input is not None:
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        self._handles.append(module.register_forward_hook(after))

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.close()
        return self._stop and kind is not None and issubclass(kind, StopForward)

    def close(self) -> None:
        """Remove the hooks; calling it again does nothing."""
        while self._handles:
            self._handles[-1].remove()  # an interrupt in between leaves nothing behind
            self._handles.pop()


class TraceDict(OrderedDict[str, Trace]):
    """One `Trace` a layer name, in the order given; `stop` ends the forward pass after the last of them to be named."""

    def __init__(
        self,
        module: nn.Module,
        layers: Iterable[str],
        *,
        retain_output: bool = True,
        retain_input: bool = False,
        clone: bool = False,
        detach: bool = False,
        edit_output: EditOutput | None = None,
        edit_input: EditInput | None = None,
        stop: bool = False,
    ) -> None:
        super().__init__()
        names = list(dict.fromkeys(layers))
        self._stop = stop
        try:
            for name in names:
                self[name] = Trace(
                    module,
                    name,
                    retain_output=retain_output,
                    retain_input=retain_input,
                    clone=clone,
                    detach=detach,
                    edit_output=edit_output,
                    edit_input=edit_input,
                    stop=stop and name == names[-1],
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> TraceDict:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.close()
        return self._stop and kind is not None and issubclass(kind, StopForward)

    def close(self) -> None:
        """Remove all hooks."""
        for trace in self.values():
            trace.close()


def submodule(module: nn.Module, name: str) -> nn.Module:
    """The module of this dotted name below `module`. Raises KeyError naming it where there is none."""
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        raise KeyError(f"{type(module).__name__} has no module {name!r}") from error


def first_tensor(output: Any) -> torch.Tensor:
    """The tensor of a module's output: transformers blocks return it bare (v5) or first in a tuple (older ones)."""
    value = output[0] if isinstance(output, (tuple, list)) else output
    if not isinstance(value, torch.Tensor):
        raise UnsupportedModelError(f"a module gave a {type(value).__name__} where its states were expected")
    return value


def with_first_tensor(output: Any, tensor: torch.Tensor) -> Any:
    """`output` with its tensor replaced, in the form it had."""
    if isinstance(output, tuple):
        return (tensor, *output[1:])
    if isinstance(output, list):
        return [tensor, *output[1:]]
    return tensor


def _kept(value: Any, clone: bool, detach: bool) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach() if detach else value
        return value.clone() if clone else value
    if isinstance(value, (tuple, list)):
        return type(value)(_kept(part, clone, detach) for part in value)
    return value
