"""What every test shares: shapes and types checked at run time, one thread a worker, and the real model."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from rome_engine.model.language_model import LanguageModel

# Before any test imports the package: modules that are already imported stay unchecked.
install_import_hook("rome_engine", "beartype.beartype")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _values_apart(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Searched values and presets are kept for one test, and not in the user's cache."""
    folder = cache(lambda: tmp_path_factory.mktemp("values"))
    monkeypatch.setattr("rome_engine.edit.value_store.cache_home", folder)
    monkeypatch.setattr("rome_engine.edit.presets.cache_home", folder)


@pytest.fixture(scope="session")
def embedded_folder() -> Path:
    """The folder of the converted embedded model, in the user's own cache."""
    from rome_engine.model import embedded

    return embedded.ensure()


@pytest.fixture(scope="session")
def embedded_model(embedded_folder: Path) -> LanguageModel:
    """The embedded model, loaded once a session; tests leave it as it is."""
    from rome_engine.model.language_model import LanguageModel

    return LanguageModel.load(dtype="float32")
