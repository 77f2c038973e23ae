"""A family's file corrects the proposal, and the proofs judge it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rome_engine.errors import UnsupportedModelError
from rome_engine.model import families
from rome_engine.model.language_model import LanguageModel
from tests import tiny

FILE = """
from dataclasses import replace

MODEL_TYPES = ("phi3",)


def correct(architecture, config):
    return replace(architecture, softcap=config.vocab_size / 100)
"""


def test_without_a_file_nothing_is_corrected() -> None:
    model = tiny.shared("llama")
    assert families.corrected(model.architecture, model.module.config) is model.architecture


def test_a_file_is_found_and_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.shared("phi3")
    (tmp_path / "example.py").write_text(FILE, encoding="utf-8")
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    monkeypatch.setitem(sys.modules, "rome_engine.model.families.example", None)  # put back as it was: absent
    del sys.modules["rome_engine.model.families.example"]
    corrected = families.corrected(model.architecture, model.module.config)
    assert corrected == replace(model.architecture, softcap=tiny.VOCAB / 100)
    # This correction is wrong, so the model is refused.
    with pytest.raises(UnsupportedModelError, match="logits"):
        LanguageModel(tiny.model("phi3"), tiny.tokenizer())
