"""Corruptions: how they are written, how strong they are, and drawn as the original draws them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rome_engine.errors import TraceError
from rome_engine.trace.baseline import run_baseline
from rome_engine.trace.corrupt import Corruption, Drawn, Spread, draw, embedding_std, embeddings, gaussian
from tests import tiny
from tests.trace.examples import MIDDLE

SUBJECTS = ["The Eiffel Tower", "Rome", "São Paulo", "The Louvre", "the Big Ben in London"]


@pytest.mark.parametrize(
    ("text", "meant", "written"),
    [
        ("3s", Corruption("gaussian", 3.0, True), "gaussian:3s"),
        ("0.35", Corruption("gaussian", 0.35, False), "gaussian:0.35"),
        (0.35, Corruption("gaussian", 0.35, False), "gaussian:0.35"),
        ("gaussian", Corruption("gaussian", 3.0, True), "gaussian:3s"),
        (0.3525921553373337, Corruption("gaussian", 0.3525921553373337, False), "gaussian:0.3525921553373337"),
        ("1e-05s", Corruption("gaussian", 1e-5, True), "gaussian:1e-05s"),
        ("uniform:2s", Corruption("uniform", 2.0, True), "uniform:2s"),
        ("uniform:0.5", Corruption("uniform", 0.5, False), "uniform:0.5"),
        ("covariance:2", Corruption("covariance", 2.0, True), "covariance:2s"),
        ("replace:3s", Corruption("replace", 3.0, True), "replace:3s"),
        ("swap", Corruption("swap", 0.0, False), "swap"),
        ("swap:The Louvre", Corruption("swap", 0.0, False, "The Louvre"), "swap:The Louvre"),
    ],
)
def test_what_is_written_is_meant_and_written_back(text: str | float, meant: Corruption, written: str) -> None:
    assert Corruption.parse(text) == meant
    assert str(meant) == written and Corruption.parse(written) == meant


@pytest.mark.parametrize(
    "text", ["", "s", "3 sigma", "-1", "0", "nan", "infs", "0s", "uniform:", "poisson:3s", "swap:", "replace:x"]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(TraceError) as caught:
        Corruption.parse(text)
    assert "\n" not in str(caught.value)


def test_the_draw_is_numpys_random_state() -> None:
    expected = np.random.RandomState(7).randn(2, 3, 5) * 0.5
    assert np.array_equal(gaussian(2, 3, 5, 0.5, seed=7).numpy(), expected)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_deviation_is_pooled_over_all_entries_of_the_embedding_as_the_model_uses_it(family: str) -> None:
    model = tiny.shared(family)
    rows = [model.embedding(torch.tensor(model.tokenizer(subject)["input_ids"])) for subject in SUBJECTS]
    assert embedding_std(model, SUBJECTS) == pytest.approx(float(torch.cat(rows).std()), rel=1e-6)
    assert embedding_std(model, SUBJECTS) != pytest.approx(float(torch.cat(rows[:1]).std()), rel=1e-3)


def test_no_subjects_no_deviation() -> None:
    with pytest.raises(TraceError):
        embedding_std(tiny.shared("llama"), [])


@pytest.mark.parametrize("kind", ["gaussian", "replace", "uniform", "covariance"])
def test_the_noise_has_the_spread_that_it_says(kind: str) -> None:
    model = tiny.shared("llama")
    spread = Spread(model, SUBJECTS)
    noise = draw(Corruption.parse(f"{kind}:2s"), spread, [1, 2, 3], 4, 2000, 3).noise
    assert noise is not None and noise.shape == (2000, 4, tiny.D_MODEL)
    flat = noise.reshape(-1, tiny.D_MODEL).numpy()
    if kind == "covariance":
        wanted = np.cov(embeddings(model, SUBJECTS).double().numpy().T)
        assert np.abs(np.cov(flat.T) / 4 - wanted).max() < 0.1 * np.abs(wanted).max()
        assert np.abs(np.cov(flat.T) / 4 - np.diag(np.diag(wanted))).max() > 0.1 * np.abs(wanted).max()
    else:
        level = 2 * spread.std
        assert flat.std() == pytest.approx(level / 3**0.5 if kind == "uniform" else level, rel=0.02)
        assert (np.abs(flat).max() <= level) == (kind == "uniform")


def test_noise_is_added_to_the_subjects_embeddings_or_put_in_their_place() -> None:
    model = tiny.shared("llama")
    prompt = model.tokenize(*MIDDLE)
    begin, end = prompt.subject_range or (0, 0)
    clean = model.embedding(model.ids(prompt))[0]
    for replaces in (False, True):
        noise = gaussian(2, end - begin, tiny.D_MODEL, 1.0, 5)
        runs = run_baseline(model, prompt, Drawn((prompt.input_ids,) * 2, noise, replaces))
        for row in (1, 2):
            wanted = noise[row - 1].float() + (0 if replaces else clean[begin:end])
            torch.testing.assert_close(runs.embedded[row, begin:end], wanted)
            torch.testing.assert_close(runs.embedded[row, :begin], clean[:begin])
        torch.testing.assert_close(runs.embedded[0], clean)


def test_a_swap_changes_the_subjects_tokens_and_nothing_else() -> None:
    model = tiny.shared("llama")
    prompt = model.tokenize(*MIDDLE)
    begin, end = prompt.subject_range or (0, 0)
    ids = [*prompt.input_ids]
    ids[begin:end] = [9] * (end - begin)
    runs = run_baseline(model, prompt, Drawn((tuple(ids),), subject="other"))
    plain = model.module(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    assert float(runs.scores[1, 0]) == pytest.approx(float(plain[runs.question.answer[0]]), rel=1e-5)
    assert runs.samples == 1
