"""Tasks of the lm-evaluation-harness on tiny models, from local data: nothing is fetched."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rome_engine.bench.lm_eval import _same_random_numbers, evaluate
from rome_engine.errors import BenchError
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.bench.lm_tasks import CHOICES, TEXTS, write_task
from tests.edit.examples import bit_equal, random_edit, state

pytest.importorskip("lm_eval.tasks")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_task(tmp_path, monkeypatch)


def accuracy(model: LanguageModel, texts: tuple[str, ...] = TEXTS) -> float:
    """How often the first choice has the greatest log-likelihood, a forward pass a token."""
    hits = []
    for text in texts:
        likelihoods = []
        for choice in CHOICES:
            begun, whole = (
                model.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, f"{text} {choice}")
            )
            total = 0.0
            for place in range(len(begun), len(whole)):
                with torch.no_grad():
                    logits = model.module(input_ids=torch.tensor([whole[:place]])).logits[0, -1]
                total += float(logits.double().log_softmax(-1)[whole[place]])
            likelihoods.append(total)
        hits.append(int(np.argmax(likelihoods)) == 0)
    return float(np.mean(hits))


def seed_with(model: LanguageModel) -> tuple[float, int]:
    """An edit, by its seed, that changes the accuracy."""
    plain = accuracy(model)
    for seed in range(20):
        with random_edit(model, (1, 2), seed=seed).applied(model):
            if accuracy(model) != plain:
                return plain, seed
    raise AssertionError("no edit changes anything")


def test_it_is_the_argmax_of_the_log_likelihoods(folder: Path) -> None:
    model = tiny.language_model("gpt2")
    before, tokenizer = state(model), repr(model.tokenizer)
    plain, seed = seed_with(model)
    # Python's own random numbers are drawn by the tests' type checks, too: see below.
    np.random.seed(3), torch.manual_seed(3)
    expected = (np.random.rand(), float(torch.rand(())))
    np.random.seed(3), torch.manual_seed(3)
    found = evaluate(model, ["cities"], include_path=folder)
    assert (np.random.rand(), float(torch.rand(()))) == expected
    assert found["cities"]["acc,none"] == pytest.approx(plain)
    with random_edit(model, (1, 2), seed=seed).applied(model):
        edited = evaluate(model, ["cities"], include_path=folder)
        assert edited["cities"]["acc,none"] == pytest.approx(accuracy(model))
    assert edited["cities"]["acc,none"] != found["cities"]["acc,none"]
    assert bit_equal(model, before) and repr(model.tokenizer) == tokenizer
    assert evaluate(model, ["cities"], include_path=folder) == found


def test_random_numbers_of_the_process_go_on() -> None:
    state_before = random.getstate()
    expected = random.random()
    random.setstate(state_before)
    with pytest.raises(KeyboardInterrupt), _same_random_numbers():
        random.seed(5)
        raise KeyboardInterrupt
    assert random.random() == expected


def test_a_limit_takes_the_first_examples(folder: Path) -> None:
    model = tiny.shared("llama")
    found = evaluate(model, ["cities"], limit=2, include_path=folder)
    assert found["cities"]["acc,none"] == pytest.approx(accuracy(model, TEXTS[:2]))


def test_what_cannot_be_evaluated(folder: Path) -> None:
    model = tiny.shared("gpt2")
    with pytest.raises(BenchError, match="has no task towns"):
        evaluate(model, ["cities", "towns"], include_path=folder)
    for arguments in ({"tasks": []}, {"tasks": ["cities"], "limit": 0}):
        with pytest.raises(BenchError, match="nothing to evaluate"):
            evaluate(model, **arguments, include_path=folder)
    task = (folder / "cities.yaml").read_text(encoding="utf-8")
    (folder / "helper.py").write_text("import a_package_that_is_not_there", encoding="utf-8")
    by_hand = task.replace("task: cities", "task: byhand").replace(
        'doc_to_text: "{{text}}"', "doc_to_text: !function helper.of"
    )
    assert by_hand.count("!function") == 1
    (folder / "byhand.yaml").write_text(by_hand, encoding="utf-8")
    with pytest.raises(BenchError, match=r"cannot run byhand.*a_package_that_is_not_there.*packages"):
        evaluate(model, ["byhand"], include_path=folder)
    (folder.parent / "cities.jsonl").unlink()
    with pytest.raises(BenchError, match="cannot run cities"):
        evaluate(model, ["cities"], include_path=folder)


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(BenchError, match=r"pip install 'rome-engine\[lm-eval\]'"):
        evaluate(tiny.shared("gpt2"), ["cities"])
