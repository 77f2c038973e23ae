"""Bringing a model and its tokenizer into memory, with one clear line for everything that can go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rome_engine.errors import ModelLoadError, UnsupportedModelError
from rome_engine.model import embedded

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_pretrained(
    name: str | None,
    *,
    dtype: str | torch.dtype,
    device: str | None,
    device_map: Any,
    revision: str | None,
    trust_remote_code: bool,
) -> tuple[nn.Module, Any, str]:
    """Model, tokenizer and the name to show. See `LanguageModel.load`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    is_embedded = name is None or name.lower() in embedded.ALIASES
    source = str(embedded.ensure()) if name is None or is_embedded else name
    _check_source(source)
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _quiet(), _explained(source):
        _check_hub(source, revision)
        config = AutoConfig.from_pretrained(source, **common)
        _check_config(config, source)
        module, report = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            device_map=device_map,
            use_safetensors=True,
            output_loading_info=True,
            **common,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
    if missing := sorted(report["missing_keys"]):
        raise UnsupportedModelError(
            f"{source} is no whole {type(module).__name__}: it has no weights for {missing[0]} ({len(missing)} missing in "
            "all); give a checkpoint of a causal LM, its head included"
        )
    if device is not None and device_map is None:
        module.to(device)
    return module, tokenizer, embedded.NAME if is_embedded else source


def _check_source(source: str) -> None:
    """Say what is wrong with a local folder before transformers takes it for something else."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if source.startswith((".", "/", "~", "\\")) or source.count("/") > 1 or not source.strip():
            raise ModelLoadError(
                f"there is no folder {source!r}: give a local folder with a model, or a Hub id such as openai-community/gpt2"
            )
        return
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(f"the folder {folder} is no model: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"the folder {folder} is no model: its config.json cannot be read ({error})") from error
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            f"the folder {folder} has no weights in safetensors, and pickled ones are not loaded: convert them with "
            "save_pretrained of a current transformers first"
        )


def _check_hub(source: str, revision: str | None) -> None:
    """Ask the Hub once for a model that is not on this machine: the download itself would retry for half a minute."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if not Path(source).is_dir() and not isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str):
        HfApi().model_info(source, revision=revision, timeout=20)


def _check_config(config: Any, source: str) -> None:
    """Refuse what cannot be a causal LM; whether it is one in fact, the proofs show (an encoder fails that of causality)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        reason = "an encoder-decoder model"
    elif kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return
    else:
        reason = "not a causal LM (an encoder-only model?)"
    raise UnsupportedModelError(
        f"{source} ({kind}) is {reason}: only decoders that predict the next token can be traced or edited"
    )


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turns what transformers and the Hub client raise into one line with the remedy."""
    try:
        yield
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise ModelLoadError(_explanation(error, source)) from error


def _explanation(error: Exception, source: str) -> str:
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
    if caused_by(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError, TimeoutError) or (
        "connect" in text.lower() or "offline" in text.lower()
    ):
        return (
            f"the model {source} is not on this machine and the Hub cannot be reached: check the name and the network, or "
            "give a local folder (the embedded model needs no Hub: leave --model out)"
        )
    if caused_by(hub.RepositoryNotFoundError, hub.HFValidationError) or "not a valid model identifier" in text:
        return f"there is no model {source}: give a Hub id such as openai-community/gpt2 or a local folder"
    return f"the model {source} cannot be loaded: {text[:300] or type(error).__name__}"


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or notices of transformers while it loads; its settings are restored."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
