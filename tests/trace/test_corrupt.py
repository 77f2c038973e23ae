"""Noise: how strong, and drawn as the original draws it."""

import numpy as np
import pytest
import torch

from rome_engine.errors import TraceError
from rome_engine.trace.corrupt import Noise, embedding_std, gaussian
from tests import tiny


def test_levels_are_multiples_or_numbers() -> None:
    assert Noise.parse("3s") == Noise(multiple=3.0)
    assert Noise.parse("0.35") == Noise.parse(0.35) == Noise(sigma=0.35)


@pytest.mark.parametrize("text", ["", "s", "3 sigma", "-1", "0", "nan", "infs", "0s"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(TraceError):
        Noise.parse(text)


def test_the_draw_is_numpys_random_state() -> None:
    expected = np.random.RandomState(7).randn(2, 3, 5) * 0.5
    assert np.array_equal(gaussian(2, 3, 5, 0.5, seed=7).numpy(), expected)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_deviation_is_pooled_over_all_entries_of_the_embedding_as_the_model_uses_it(family: str) -> None:
    model = tiny.shared(family)
    subjects = ["The Eiffel Tower", "Rome", "São Paulo"]
    rows = [model.embedding(torch.tensor(model.tokenizer(subject)["input_ids"])) for subject in subjects]
    assert embedding_std(model, subjects) == pytest.approx(float(torch.cat(rows).std()), rel=1e-6)
    assert embedding_std(model, subjects) != pytest.approx(float(torch.cat(rows[:1]).std()), rel=1e-3)


def test_no_subjects_no_deviation() -> None:
    with pytest.raises(TraceError):
        embedding_std(tiny.shared("llama"), [])
