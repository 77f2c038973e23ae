"""What transformers and the Hub client raise, as one line with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rome_engine.errors import ModelLoadError, UnsupportedModelError


@contextmanager
def explained(source: str, split: bool = False) -> Iterator[None]:
    """Whatever goes wrong in the `with` block while `source` is loaded raises a ModelLoadError that says the remedy.

    split: it is loaded by a device map.
    """
    try:
        yield
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise ModelLoadError(_explanation(error, source, split)) from error


def _explanation(error: Exception, source: str, split: bool) -> str:
    from huggingface_hub import errors as hub

    chain = _chain(error)
    text = " ".join(str(error).split())

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(part, kinds) for part in chain)

    if caused_by(hub.GatedRepoError):
        return f"the model {source} is gated: ask for access on its page and log in with `hf auth login`"
    if caused_by(hub.RevisionNotFoundError):
        return f"the model {source} has no such revision: check the revision's name"
    if "trust_remote_code" in text:
        return f"the model {source} runs code of its own: allow it with --trust-remote-code if you trust its authors"
    unreachable = (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError, TimeoutError)
    if caused_by(*unreachable) or "couldn't connect to" in text:
        return (
            f"the model {source} is not on this machine and the Hub cannot be reached: check the name and the network, "
            "or give a local folder (the embedded model needs no Hub: leave --model out)"
        )
    if caused_by(hub.RepositoryNotFoundError, hub.HFValidationError) or "not a valid model identifier" in text:
        return f"there is no model {source}: give a Hub id such as openai-community/gpt2 or a local folder"
    if "`offload_folder`" in text:
        return f"weights of the model {source} must be written anew to stay on disk: name a folder as offload_folder"
    if split:
        return (
            f"the model {source} cannot be split by this device_map ({text.rstrip('.')[:200]}): give auto, balanced, "
            "sequential, or a device (a number, a name, disk) for every module, shared weights on one"
        )
    return f"the model {source} cannot be loaded: {text[:300] or type(error).__name__}"


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
