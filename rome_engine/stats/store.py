"""Second moments by content: shipped with the package, kept in the user's cache, or collected now.

A moment belongs to weights, a layer, a corpus and a sampling; none is ever found by a model's name.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rome_engine.errors import StatisticsError, StorageError
from rome_engine.model.embedded import Report, cache_home
from rome_engine.model.language_model import LanguageModel
from rome_engine.resources import data_file
from rome_engine.stats import checkpoint, packed
from rome_engine.stats.collect import Gather, checked_layers, collect, sampling_for
from rome_engine.stats.corpus import Corpus, tokenizer_hash
from rome_engine.stats.provenance import DEFAULT_TOKENS, IMPORTED, Sampling, content_key
from rome_engine.stats.second_moment import SecondMoment

FOLDER = "second_moments"

_log = logging.getLogger(__name__)


def moments(
    model: LanguageModel,
    layers: Iterable[int],
    *,
    corpus: Corpus | None = None,
    tokens: int = DEFAULT_TOKENS,
    length: int | None = None,
    seed: int = 0,
    cache: Path | None = None,
    progress: Report | None = None,
    gather: Gather | None = None,
) -> dict[int, SecondMoment]:
    """The second moments of these layers for this model's very weights: shipped, cached, or collected and cached.

    With a corpus, a moment counts as found only if it was collected from that corpus with this sampling. Without one,
    any moment of these weights does (imported before shipped before cached, of several the one of most keys), tokens,
    length and seed are of no account, and nothing is collected. A collection that was interrupted goes on where it was,
    and may be run elsewhere (gather); see `collect`. cache: a folder instead of
    `$XDG_CACHE_HOME/rome_engine/second_moments`. A damaged file is logged as a warning and passed over.

    Raises StatisticsError when a moment is missing and no corpus is given, and as `collect` does; StorageError when the
    cache cannot be written (asked before anything is collected).
    """
    wanted = checked_layers(model, layers)
    sampling = sampling_for(model, tokens, length, seed)
    folder = _folder(cache)
    weights = model.weight_hash()
    keys = {} if corpus is None else _keys(model, weights, wanted, corpus, sampling)
    found: dict[int, SecondMoment] = {}
    damaged: list[Path] = []
    for layer in wanted:
        moment = _lookup(folder, weights, layer, keys.get(layer), damaged)
        if moment is not None:
            found[layer] = moment
    missing = [layer for layer in wanted if layer not in found]
    if missing and corpus is None:
        raise StatisticsError(_nothing_found(model, missing, damaged))
    if missing and corpus is not None:
        _check_writable(folder)
        unfinished = folder / _unfinished_name(weights, [keys[layer] for layer in missing])
        collected = collect(
            model,
            corpus,
            missing,
            tokens=sampling.tokens,
            length=sampling.length,
            seed=sampling.seed,
            checkpoint=unfinished,
            progress=progress,
            gather=gather,
        )
        keep(collected.values(), cache=folder)
        checkpoint.remove(unfinished)
        found |= collected
    return {layer: found[layer] for layer in wanted}


def wanted_keys(
    model: LanguageModel,
    layers: Iterable[int],
    corpus: Corpus,
    *,
    tokens: int = DEFAULT_TOKENS,
    length: int | None = None,
    seed: int = 0,
) -> dict[int, str]:
    """The content keys of what `moments` gives for the same arguments. Raises StatisticsError as that does."""
    wanted = checked_layers(model, layers)
    return _keys(model, model.weight_hash(), wanted, corpus, sampling_for(model, tokens, length, seed))


def stored(model: LanguageModel, keys: Mapping[int, str], *, cache: Path | None = None) -> dict[int, SecondMoment]:
    """The second moments of exactly these content keys by layer, shipped or cached; nothing is collected.

    cache, damaged files: as in `moments`. Raises StatisticsError where one is not there.
    """
    weights = model.weight_hash()
    looked = {layer: _lookup(_folder(cache), weights, layer, keys[layer], []) for layer in checked_layers(model, keys)}
    found = {layer: moment for layer, moment in looked.items() if moment is not None}
    gone = {layer: keys[layer] for layer in looked if layer not in found}
    if gone:
        named = ", ".join(f"{key[:16]} of layer {layer}" for layer, key in gone.items())
        layers = ",".join(map(str, gone))
        raise StatisticsError(
            f"the second moments {named} are neither shipped nor in the cache: collect them again with the text and "
            f"the options of then, `rome-engine stats --layers {layers} --corpus FILE --tokens N`"
        )
    return found


def keep(moments: Iterable[SecondMoment], *, cache: Path | None = None) -> list[Path]:
    """Write moments of known provenance where `moments` finds them; the files.

    Raises StatisticsError for a moment of unknown provenance, StorageError when the cache cannot be written.
    """
    paths = []
    for moment in moments:
        about = moment.provenance
        if about is None:
            raise StatisticsError("a second moment of unknown provenance cannot be kept by content: save it to a file")
        path = _folder(cache) / _cached_name(about.weights, about.layer, about.key)
        try:
            # Exactly: the next run must not differ from the one that collected.
            moment.save(path, dtype="float64")
        except StorageError as error:
            raise StorageError(f"{error}; XDG_CACHE_HOME moves the cache") from error
        paths.append(path)
    return paths


def shipped_name(weights: str, layer: int) -> str:
    """The name under data/ of the moment shipped for these weights and this layer."""
    return f"{FOLDER}/{weights[:16]}-layer-{layer:03d}.safetensors"


def _keys(
    model: LanguageModel, weights: str, layers: Iterable[int], corpus: Corpus, sampling: Sampling
) -> dict[int, str]:
    text, tokenizer = corpus.hash, tokenizer_hash(model.tokenizer)
    return {layer: content_key(weights, layer, text, tokenizer, sampling) for layer in layers}


def _cached_name(weights: str, layer: int, key: str) -> str:
    return f"{weights[:16]}-layer-{layer:03d}-{key[:16]}.safetensors"


def _unfinished_name(weights: str, keys: list[str]) -> str:
    return f"{weights[:16]}-{hashlib.sha256(''.join(keys).encode()).hexdigest()[:16]}.unfinished"


def _folder(cache: Path | None) -> Path:
    return cache if cache is not None else cache_home() / FOLDER


def _lookup(folder: Path, weights: str, layer: int, key: str | None, damaged: list[Path]) -> SecondMoment | None:
    """The moment of this key, or with no key any of these weights and layer."""
    cached = _cached(folder, weights, layer, key)
    chosen = [path for path in cached if (_header(path).get("provenance") or {}).get("versions") == IMPORTED]
    for path in dict.fromkeys([*chosen, *_shipped(weights, layer), *cached]):
        try:
            moment = SecondMoment.load(path)
        except (StatisticsError, StorageError) as error:
            _log.warning("%s", error)
            damaged.append(path)
            continue
        about = moment.provenance
        if about is not None and (about.weights, about.layer) == (weights, layer) and key in (None, about.key):
            return moment
    return None


def _shipped(weights: str, layer: int) -> list[Path]:
    try:
        return [data_file(shipped_name(weights, layer))]
    except StorageError:  # none is shipped for most models
        return []


def _cached(folder: Path, weights: str, layer: int, key: str | None) -> list[Path]:
    if key is not None:
        path = folder / _cached_name(weights, layer, key)
        return [path] if path.exists() else []
    cached = folder.glob(_cached_name(weights, layer, "*"))
    return sorted(cached, key=lambda path: (-_header(path).get("count", 0), path.name))


def _header(path: Path) -> dict[str, Any]:
    """A file's header; an empty one where it is damaged, which is said when it is loaded."""
    try:
        return packed.read_header(path)
    except (StatisticsError, StorageError):
        return {}


def _nothing_found(model: LanguageModel, missing: list[int], damaged: list[Path]) -> str:
    layers = ("layer " if len(missing) == 1 else "layers ") + ", ".join(map(str, missing))
    broken = f" ({', '.join(path.name for path in damaged)} is damaged)" if damaged else ""
    return (
        f"there are no second moments of {layers} for these weights of {model.name}{broken}: give a corpus, "
        f"e.g. `rome-engine stats --corpus FILE --layers {','.join(map(str, missing))}`"
    )


def _check_writable(folder: Path) -> None:
    """Minutes of collecting must not be lost to a folder that could never be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"the cache folder {folder} cannot be written ({error.strerror or error}): free some room there, or set "
            "XDG_CACHE_HOME to another folder"
        ) from error
