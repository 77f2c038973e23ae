"""Tiny models saved to a folder and loaded split: blocks in memory and on disk in turn, the ends on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rome_engine.model.language_model import LanguageModel
from tests import tiny


def saved(family: str, folder: Path, **changed: Any) -> Path:
    """The folder of a fresh tiny model with its tokenizer."""
    tiny.model(family, **changed).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def device_map(family: str, ends: str = "disk") -> dict[str, str]:
    """Odd blocks on disk, even ones in memory; embedding, final norm and unembedding at `ends`."""
    found = tiny.shared(family).architecture
    positions = {"gpt2": ("transformer.wpe",), "gemma2": ("model.rotary_emb",), "llama": ("model.rotary_emb",)}
    places = dict.fromkeys((found.embedding, found.final_norm, found.unembedding, *positions[family]), ends)
    return {**places, **{path: "disk" if layer % 2 else "cpu" for layer, path in enumerate(found.blocks)}}


def loaded(family: str, folder: Path, ends: str = "disk") -> tuple[LanguageModel, LanguageModel]:
    """A saved tiny model, loaded plainly and split."""
    saved(family, folder)
    plain = LanguageModel.load(str(folder))
    return plain, LanguageModel.load(str(folder), device_map=device_map(family, ends))
