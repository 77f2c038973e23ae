"""Perplexity of a text: brute force, conventions, and a model left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rome_engine.bench.general import perplexity
from rome_engine.edit import Checkup
from rome_engine.errors import BenchError, PromptError
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import bit_equal, random_edit, state

TEXT = "The Louvre is in Paris, the capital of France, and the Space Needle is in Seattle. " * 6


def losses(model: LanguageModel, window: int, tokens: int | None = None) -> list[list[float]]:
    """The NLL of every scored token, a forward pass a token."""
    ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"][:tokens]
    found = []
    for begin in range(0, len(ids), window):
        part = ids[begin : begin + window]
        row = []
        for place in range(1, len(part)):
            with torch.no_grad():
                logits = model.module(input_ids=torch.tensor([part[:place]])).logits[0, -1]
            row.append(-float(logits.double().log_softmax(-1)[part[place]]))
        found.append(row)
    return [row for row in found if row]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("window", "tokens"), [(16, None), (7, 50), (1000, 60), (9, 19)])
def test_it_is_what_one_token_at_a_time_gives(family: str, window: int, tokens: int | None) -> None:
    model = tiny.shared(family)
    told: list[tuple[int, int]] = []
    found = perplexity(model, TEXT, window=window, tokens=tokens, progress=lambda *at: told.append(at))
    rows = losses(model, min(window, tiny.CONTEXT), tokens)
    flat = [loss for row in rows for loss in row]
    assert found.nll == pytest.approx(np.mean(flat), rel=1e-5)
    assert found.value == pytest.approx(math.exp(np.mean(flat)), rel=1e-4)
    assert (found.tokens, found.windows, found.window) == (len(flat), len(rows), min(window, tiny.CONTEXT))
    assert told[-1] == (found.tokens + found.windows,) * 2 and len(told) == found.windows


def test_the_standard_error_is_that_of_windows() -> None:
    """Of windows of one size it is the spread of the windows' means; a single one tells nothing."""
    model = tiny.shared("llama")
    means = [np.mean(row) for row in losses(model, 10, 60)]
    found = perplexity(model, TEXT, window=10, tokens=60)
    assert found.nll_standard_error == pytest.approx(np.std(means, ddof=1) / len(means) ** 0.5, rel=1e-4)
    assert perplexity(model, TEXT, window=60, tokens=60).nll_standard_error is None


def test_an_edit_shows_and_the_model_stays_as_it_is() -> None:
    model = tiny.language_model("llama")
    before = state(model)
    plain = perplexity(model, TEXT, window=32)
    with random_edit(model).applied(model):
        edited = perplexity(model, TEXT, window=32)
    assert abs(edited.nll - plain.nll) > 0.01
    assert perplexity(model, TEXT, window=32) == plain
    assert bit_equal(model, before)


def test_it_is_the_guards_perplexity() -> None:
    model = tiny.language_model("gpt2")
    edit = random_edit(model)
    health = Checkup(model, TEXT, []).of(edit)
    assert perplexity(model, TEXT).value == health.perplexity_before
    with edit.applied(model):
        assert perplexity(model, TEXT).value == health.perplexity


def test_numbers_that_are_not_finite_are_not_hidden() -> None:
    model = tiny.language_model("gpt2")
    with torch.no_grad():
        model.weight(0).fill_(torch.nan)
    assert math.isnan(perplexity(model, TEXT).value)


def test_what_cannot_be_scored() -> None:
    model = tiny.shared("gpt2")
    for text in ("", "a"):
        with pytest.raises(PromptError, match="too short"):
            perplexity(model, text)
    with pytest.raises(BenchError, match="window of 1 leaves no token"):
        perplexity(model, TEXT, window=1)
    with pytest.raises(BenchError, match="token budget of 0"):
        perplexity(model, TEXT, tokens=0)
