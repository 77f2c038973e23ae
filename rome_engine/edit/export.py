"""The edited model as a checkpoint of its own, which plain transformers loads."""

from __future__ import annotations

from pathlib import Path

from rome_engine.edit.edit import Edit
from rome_engine.files import folder_whole
from rome_engine.model.language_model import LanguageModel

CARD = "README.md"


def save_merged(model: LanguageModel, edit: Edit, folder: str | Path, *, card: str | None = None) -> Path:
    """Write the edited model with its tokenizer; the model in memory is afterwards bit for bit what it was.

    folder: new or empty; it is there whole or not at all. card: what its README.md shall say, see `report.card`.
    Raises WrongWeightsError, and StorageError for a folder that is in use or a disk that is full or read-only.
    """
    with edit.applied(model):
        return save_model(model, folder, card=card)


def save_model(model: LanguageModel, folder: str | Path, *, card: str | None = None) -> Path:
    """Write the model as it is now, with its tokenizer; folder, card and errors as in `save_merged`."""
    path = Path(folder)
    with folder_whole(path) as partial:
        model.module.save_pretrained(partial)
        model.tokenizer.save_pretrained(partial)
        if card is not None:
            (partial / CARD).write_text(card, encoding="utf-8")
    return path
