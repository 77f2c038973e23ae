"""Agreement with tables that the original implementation made on the embedded model (numbers only)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import CLASSIC, Settings, trace_maps
from rome_engine.trace.corrupt import embedding_std

TABLES = json.loads((Path(__file__).parent / "original_tables.json").read_text(encoding="utf-8"))
PROMPTS = {
    "eiffel": ("The Eiffel Tower is located in the city of", "The Eiffel Tower"),
    "france": ("The capital of France is", "France"),
}
pytestmark = pytest.mark.embedded


@pytest.mark.parametrize("name", PROMPTS)
def test_preset_rome_is_the_original_procedure(embedded_model: LanguageModel, name: str) -> None:
    table = TABLES[name]
    settings = Settings(kinds=CLASSIC, preset="rome", corruptions=(table["noise_sigma"],), samples=table["samples"])
    traces = trace_maps(embedded_model, *PROMPTS[name], settings)
    for found in traces:
        assert found.provenance["input_ids"] == table["input_ids"]
        assert list(found.subject_range) == table["subject_range"]
        assert found.answer == " Paris"
        assert found.low == pytest.approx(table["low"], abs=1e-4)
        assert found.high == pytest.approx(table["high"], abs=1e-4)
        np.testing.assert_allclose(found.scores, np.array(table["scores"][found.kind]), atol=1e-4, rtol=0)


def test_the_embeddings_deviation_is_the_originals(embedded_model: LanguageModel) -> None:
    measured = embedding_std(embedded_model, ["The Eiffel Tower", "The Colosseum", "France"])
    assert 3 * measured == pytest.approx(TABLES["eiffel"]["noise_sigma"], rel=1e-6)
