"""Contexts and keys: reproducible, harmless to what is around them, and at the right place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rome_engine.edit.context import ROME_LENGTHS, Contexts, sample
from rome_engine.edit.key import keys
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.hooks import Trace
from tests import tiny
from tests.edit.examples import AT_START, FACT


def test_the_bare_prompt_and_one_text_a_length() -> None:
    model = tiny.shared("llama")
    contexts = sample(model)
    assert len(contexts.templates) == 1 + len(ROME_LENGTHS) == 21
    assert contexts.templates[0] == "{}"
    assert sum(template.endswith(". {}") for template in contexts.templates) >= 15
    for text in contexts.prompts(FACT):
        assert text.endswith(FACT.prompt)
        assert model.tokenize(text, FACT.subject).subject == FACT.subject


def test_the_same_seed_gives_the_same_and_the_global_random_state_is_left_alone() -> None:
    model = tiny.shared("gpt2")
    before = torch.get_rng_state()
    first, again, other = sample(model, seed=1), sample(model, seed=1), sample(model, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == again and first.hash == again.hash
    assert first != other and first.hash != other.hash


def test_braces_and_special_tokens_and_line_breaks_do_not_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("gpt2")
    ugly = [*model.tokenizer("if {} {x}:\n\n{", add_special_tokens=False)["input_ids"], tiny.BOS]

    def generate(prompts: Any, *_args: Any, **_kwargs: Any) -> list[tuple[int, ...]]:
        return [tuple(ugly) for _ in prompts]

    monkeypatch.setattr(model, "generate", generate)
    assert sample(model, lengths=(len(ugly), 0)).templates == ("{}", "if x:. {}", "{}")


def test_templates_without_one_place_are_refused() -> None:
    for wrong in ((), ("Once. {}",), ("{}", "Once"), ("{}", "{} and {}")):
        with pytest.raises(EditError, match="context"):
            Contexts(wrong)


def test_a_tokenizer_without_a_start_is_refused() -> None:
    model = tiny.language_model("gpt2")
    model.tokenizer.bos_token = model.tokenizer.eos_token = None
    with pytest.raises(EditError, match="document-start"):
        sample(model)
    assert sample(model, lengths=()).templates == ("{}",)


@pytest.mark.parametrize("fact", [FACT, AT_START], ids=["inside", "at the start"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("layers", [(0, 2)])
def test_keys_are_those_of_each_text_alone(family: str, fact: Fact, layers: tuple[int, ...]) -> None:
    model = tiny.shared(family)
    contexts = Contexts(("{}", "The capital. {}", "To visit it, you have to travel to England. {}"))
    found = keys(model, fact, contexts, layers)
    assert set(found) == set(layers)
    for layer in layers:
        assert found[layer].shape == (3, model.architecture.d_mlp)
        for row, template in enumerate(contexts.prompts(fact)):
            prompt = model.tokenize(template, fact.subject)
            with Trace(model.down_projection(layer), retain_input=True) as down, torch.no_grad():
                model.module(input_ids=model.ids(prompt), use_cache=False)
            key = down.input.reshape(len(prompt.input_ids), -1)[prompt.last_subject_token]
            assert torch.allclose(found[layer][row], key, rtol=1e-4, atol=1e-5 * float(key.abs().max()))
            wrong = down.input.reshape(len(prompt.input_ids), -1)[prompt.last_subject_token + 1]
            assert not torch.allclose(found[layer][row], wrong, rtol=1e-2)
