"""Bringing a model and its tokenizer into memory, with one clear line for everything that can go wrong."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rome_engine.errors import ModelLoadError, UnsupportedModelError
from rome_engine.model import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    is_embedded = name is None or name.lower() in embedded.NAMES
    source = str(embedded.ensure()) if name is None or is_embedded else name
    shown = embedded.NAME if is_embedded else source
    local = Path(source).is_dir()
    if not local and (source.startswith((".", "/", "~")) or os.sep in source.strip(os.sep) and source.count("/") > 1):
        raise ModelLoadError(f"there is no folder {source}: give a local folder with a model, or a Hub id such as openai-community/gpt2")
    if local:
        _check_folder(Path(source))
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if is_embedded:
        common["local_files_only"] = True
    with _quiet(), _explained(source):
        config = AutoConfig.from_pretrained(source, **common)
        _check_config(config, source)
        module = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, device_map=device_map, use_safetensors=True, **common
        )
        tokenizer = AutoTokenizer.from_pretrained(source, **common)
    if device is not None and device_map is None:
        module.to(device)
    return module, tokenizer, shown


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"the folder {folder} is no model: it has no config.json")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"the folder {folder} is no model: its config.json cannot be read ({error})") from error
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            f"the folder {folder} has no weights in safetensors: pickled weights are not loaded; save the model with "
            "save_pretrained(safe_serialization=True) first"
        )


def _check_config(config: Any, source: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if config.is_encoder_decoder:
        raise UnsupportedModelError(f"{source} ({config.model_type}) is an encoder-decoder model: only decoder-only causal LMs can be traced or edited")
    names = list(getattr(config, "architectures", None) or [])
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    encoder_head = names and not any("CausalLM" in name or "LMHead" in name or "Generation" in name for name in names)
    if not remote and (config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or (encoder_head and not _may_decode(config))):
        raise UnsupportedModelError(
            f"{source} ({', '.join(names) or config.model_type}) is not a causal LM (an encoder-only model?): only decoders that "
            "predict the next token can be traced or edited"
        )


def _may_decode(config: Any) -> bool:
    """Encoders such as BERT have a causal class too; they are causal LMs only when configured as decoders."""
    return bool(getattr(config, "is_decoder", False)) or config.model_type not in _ENCODERS


_ENCODERS = frozenset({"bert", "roberta", "camembert", "electra", "xlm-roberta", "xlm-roberta-xl", "megatron-bert", "roformer", "ernie", "data2vec-text", "rembert", "roberta-prelayernorm", "modernbert", "xmod", "big_bird"})


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turns what transformers and the Hub client raise into one line with the remedy."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except (UnsupportedModelError, ModelLoadError, KeyboardInterrupt):
        raise
    except Exception as error:
        cause = _chain(error)
        text = " ".join(str(error).split())
        if any(isinstance(part, GatedRepoError) for part in cause):
            message = f"the model {source} is gated: ask for access on its page and log in with `hf auth login`"
        elif any(isinstance(part, RevisionNotFoundError) for part in cause):
            message = f"the model {source} has no such revision: check the revision's name"
        elif any(isinstance(part, (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)) for part in cause) or (
            "connect" in text.lower() or "offline" in text.lower()
        ):
            message = (
                f"the model {source} is not on this machine and the Hub cannot be reached: check the name and the network, or "
                "give a local folder (the embedded model needs no Hub: leave --model out)"
            )
        elif any(isinstance(part, (RepositoryNotFoundError, HFValidationError)) for part in cause) or "not a valid model identifier" in text:
            message = f"there is no model {source}: give a Hub id such as openai-community/gpt2 or a local folder"
        elif any(isinstance(part, HfHubHTTPError) for part in cause):
            message = f"the Hub answered with an error for {source}: {text[:200]}"
        elif "trust_remote_code" in text:
            message = f"the model {source} runs code of its own: allow it with --trust-remote-code if you trust its authors"
        else:
            message = f"the model {source} cannot be loaded: {text[:300]}"
        raise ModelLoadError(message) from error


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
