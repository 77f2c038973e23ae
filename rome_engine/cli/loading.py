"""Loading a model for a command: the options that say which and how, and progress where it has to be fetched first."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rome_engine.cli import options
from rome_engine.cli.output import progress, stderr
from rome_engine.errors import ModelLoadError

if TYPE_CHECKING:
    from rome_engine.model.language_model import LanguageModel


@dataclass(frozen=True)
class Source:
    """Which model a command is about and how it is loaded, as its options say: see `options`, and `loads`."""

    name: str | None = None
    dtype: str = "auto"
    device: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    device_map: str | None = None
    offload_folder: Path | None = None

    def load(self) -> LanguageModel:
        """The model. Raises ModelLoadError and its like."""
        return load(*astuple(self))


_HOW = {
    "dtype": options.Dtype,
    "device": options.Device,
    "revision": options.Revision,
    "trust_remote_code": options.TrustRemoteCode,
}
_PARTS = {"device_map": options.DeviceMap, "offload_folder": options.OffloadFolder}


def loads(*, split: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameter `model` is a Source has options for it: `--model` in its place, the others at the end.

    split: whether the model may be spread over devices and the disk.
    """
    how = {**_HOW, **(_PARTS if split else {})}

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        parameters = dict(signature.parameters)
        parameters["model"] = parameters["model"].replace(annotation=options.Model, default=None)
        for name, option in how.items():
            default = getattr(Source, name)
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            parameters[name] = inspect.Parameter(name, kind, annotation=option, default=default)

        @wraps(command)
        def called(**given: Any) -> None:
            source = Source(given.pop("model"), **{name: given.pop(name) for name in how})
            command(**given, model=source)

        called.__signature__ = signature.replace(parameters=list(parameters.values()))  # type: ignore[attr-defined]
        return called

    return with_options


def load(
    name: str | None,
    dtype: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: str | None = None,
    offload_folder: Path | None = None,
) -> LanguageModel:
    """The model of the options. Raises ModelLoadError and its like."""
    split = _device_map(device_map)
    with stderr().status("loading the model"):
        from rome_engine.model import embedded
        from rome_engine.model.language_model import LanguageModel

        _check_device(device)
    if (name is None or name.lower() in embedded.ALIASES) and not embedded.is_ready():
        fetch()
    with stderr().status("loading the model"):
        return LanguageModel.load(
            name,
            dtype=dtype,
            device=device,
            device_map=split,
            offload_folder=offload_folder,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )


def fetch() -> None:
    """Fetch and convert the embedded model, once."""
    from rome_engine.model import embedded

    with progress("fetching the embedded model (once)") as tick:
        embedded.ensure(lambda _message, share: tick(round(100 * share), 100))


def _device_map(text: str | None) -> Any:
    """A word as it is, or the object that JSON says. Raises ModelLoadError for JSON that cannot be read."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelLoadError(f"the device map {text[:60]!r} is no JSON object ({error})") from error


def _check_device(name: str | None) -> None:
    if name is None:
        return
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            f"the device {name!r} cannot be used ({reason[:120]}): leave --device out, or name another"
        ) from error
