"""Settings that were measured for a model's very weights, where later calls pick them up: shipped, or the user's own.

A preset is one JSON file: the model's structure and weights, the method, its settings, and how they were measured.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from rome_engine.edit.configuration import configured
from rome_engine.errors import EditError, StorageError
from rome_engine.files import write_whole
from rome_engine.model.embedded import cache_home
from rome_engine.model.language_model import LanguageModel
from rome_engine.resources import data_file

FOLDER = "presets"
FORMAT = "rome_engine.preset/1"

LAYERS = ("layer", "layers")
NOT_TUNED = ("guard", "seed")
Config = TypeVar("Config")

log = logging.getLogger(__name__)


def preset_path(model: LanguageModel, method: str, weights: str, folder: Path | None = None) -> Path:
    """Where the preset of these weights lies; the user's cache folder where none is named."""
    return (cache_home() / FOLDER if folder is None else folder) / f"{_prefix(model)}-{weights[:16]}.{method}.json"


def save_preset(
    model: LanguageModel, method: str, config: Any, measured: Mapping[str, Any], folder: Path | None = None
) -> Path:
    """Keep a method's settings for this model as it is. Raises StorageError where they cannot be written.

    measured: how they were found, as a JSON object.
    """
    weights = model.weight_hash()
    path = preset_path(model, method, weights, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {path.parent}: {error.strerror or error}; XDG_CACHE_HOME moves it") from error
    record = {
        "format": FORMAT,
        "model": model.name,
        "weights": weights,
        "method": method,
        "config": {name: value for name, value in asdict(config).items() if name not in NOT_TUNED},
        "measured": dict(measured),
    }
    write_whole(path, (json.dumps(record, indent=1) + "\n").encode())
    return path


def find_preset(model: LanguageModel, method: str) -> tuple[Path, Mapping[str, Any]] | None:
    """The preset's file and record, the user's own before a shipped one; None where there is none for these weights.

    A file that cannot be read is logged as a warning and passed over.
    """
    pattern = f"{_prefix(model)}-*.{method}.json"
    own = sorted((cache_home() / FOLDER).glob(pattern))
    shipped = sorted(_shipped().glob(pattern))
    if not own and not shipped:  # hashing the weights takes a while
        return None
    weights = model.weight_hash()
    for path in (*own, *shipped):
        record = _read(path)
        if record is not None and record["weights"] == weights:
            return path, record
    return None


def tuned(model: LanguageModel, methods: Sequence[str], config: Config, layer: int | None = None) -> Config:
    """These settings with those of the model's preset in their place, but for the layers where one is named.

    methods: those whose preset is taken, the first one there is. Raises EditError for a preset that does not fit.
    """
    found = next(filter(None, (find_preset(model, method) for method in methods)), None)
    if found is None:
        return config
    path, record = found
    chosen = {name: value for name, value in record["config"].items() if layer is None or name not in LAYERS}
    try:
        return configured(config, chosen)
    except EditError as error:
        raise EditError(f"the preset {path} cannot be used: {error}; delete it, or tune again") from error


def _prefix(model: LanguageModel) -> str:
    architecture = model.architecture
    return f"{architecture.family}-{architecture.n_layers}-{architecture.d_model}-{architecture.d_mlp}"


def _shipped() -> Path:
    return data_file("facts.json").parent / FOLDER


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] == FORMAT and isinstance(record["weights"], str) and isinstance(record["config"], dict):
            return dict(record)
        log.warning("%s is no preset and is passed over: delete it, or tune again", path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the preset %s cannot be read (%s) and is passed over: delete it, or tune again", path, error)
    return None
