"""Bringing a model and its tokenizer into memory, with one clear line for everything that can go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rome_engine.errors import ModelLoadError, UnsupportedModelError
from rome_engine.files import expanded
from rome_engine.model import embedded
from rome_engine.model.load_errors import explained
from rome_engine.model.offload import unkept

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_pretrained(
    name: str | None,
    *,
    dtype: str | torch.dtype,
    device: str | None,
    device_map: Any,
    offload_folder: str | Path | None,
    revision: str | None,
    trust_remote_code: bool,
) -> tuple[nn.Module, Any, str]:
    """Model, tokenizer and the name to show. See `LanguageModel.load`."""
    if device is not None and device_map is not None:
        raise ModelLoadError(f"device {device!r} and a device_map are both given: the map says it all, leave one out")
    if "meta" in (device_map.values() if isinstance(device_map, Mapping) else [device_map]):
        raise ModelLoadError("a device_map with the device meta loads no weights: name a device, or disk")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    is_embedded = name is None or name.lower() in embedded.ALIASES
    source = str(embedded.ensure()) if name is None or is_embedded else name
    if source.startswith("~"):
        source = str(expanded(source))
    _check_source(source)
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _quiet(), explained(source, split=device_map is not None):
        _check_hub(source, revision)
        config = AutoConfig.from_pretrained(source, **common)
        _check_config(config, source)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            device_map=device_map,
            offload_folder=offload_folder,
            use_safetensors=True,
            output_loading_info=True,
            **common,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
    module, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise UnsupportedModelError(
            f"{source} is no whole {type(module).__name__}: it has no weights for {missing[0]} ({len(missing)} missing "
            "in all); give a checkpoint of a causal LM, its head included"
        )
    if lost := unkept(module):
        raise ModelLoadError(
            f"the device_map puts {lost[0]} of {source} where it cannot be read: put weights that are shared, as those "
            "of the embedding and the head may be, on one device"
        )
    if device is not None:
        module.to(device)
    return module, tokenizer, embedded.NAME if is_embedded else source


def _check_source(source: str) -> None:
    """Say what is wrong with a local folder before transformers takes it for something else."""
    folder = expanded(source)
    if not folder.is_dir():
        if source.startswith((".", "/", "~", "\\")) or source.count("/") > 1 or not source.strip():
            raise ModelLoadError(
                f"there is no folder {source!r}: give a local folder with a model, or a Hub id such as "
                "openai-community/gpt2"
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
    from huggingface_hub import HfApi, errors, try_to_load_from_cache

    if Path(source).is_dir() or isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str):
        return
    try:
        HfApi().model_info(source, revision=revision, timeout=20)
    except (errors.HfHubHTTPError, errors.HFValidationError):
        raise
    except Exception as error:  # what the HTTP client raises is no part of the Hub client's interface
        raise ConnectionError(f"no answer from the Hub: {error}") from error


def _check_config(config: Any, source: str) -> None:
    """Refuse what cannot be a causal LM; whether it is one, the proofs show (an encoder fails that of causality)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, remote = config.model_type, getattr(config, "auto_map", None) or {}
    if getattr(config, "is_encoder_decoder", False):
        reason = "an encoder-decoder model"
    elif kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "AutoModelForCausalLM" in remote:
        return
    else:
        reason = "not a causal LM (an encoder-only model?)"
    raise UnsupportedModelError(
        f"{source} ({kind}) is {reason}: only decoders that predict the next token can be traced or edited"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or notices of transformers and accelerate while they load; their settings are restored."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    dispatcher = getLogger("accelerate.big_modeling")
    dispatcher_level = dispatcher.level
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dispatcher.setLevel(ERROR)
    try:
        yield
    finally:
        dispatcher.setLevel(dispatcher_level)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
