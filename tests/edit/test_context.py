"""Contexts and keys: reproducible, harmless to what is around them, and at the right place."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch

from rome_engine.edit.context import MEMIT_OPENINGS, ROME_LENGTHS, Contexts, sample, sample_begun
from rome_engine.edit.key import Subjects, keys
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.model.hooks import Trace, first_tensor
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
    assert sample_begun(model, openings=["The"], length=1 + len(ugly)).templates == ("{}", "Theif x:. {}")
    assert sample(model, lengths=(len(ugly), 0)).templates == ("{}", "if x:. {}", "{}")


def test_memit_s_texts_begin_with_its_words_and_the_bare_prompt_counts_for_half() -> None:
    model = tiny.shared("llama")
    contexts = sample_begun(model)
    assert contexts == sample_begun(model) != sample_begun(model, seed=1)
    assert len(contexts.templates) == 6 and contexts.templates[0] == "{}"
    for opening, template in zip(MEMIT_OPENINGS, contexts.templates[1:], strict=True):
        assert template.startswith(opening) and template.endswith(". {}")
    assert contexts.weights == pytest.approx((0.5, 0.1, 0.1, 0.1, 0.1, 0.1))
    assert sample(model, lengths=(3, 3, 3)).weights == pytest.approx((0.25,) * 4)
    assert sample_begun(model, openings=()).weights == sample(model, lengths=()).weights == (1.0,)


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


FACTS = [
    FACT,
    AT_START,
    *(Fact("The capital of {} is", name) for name in ("France", "Italy", "Japan", "Greece", "São")),
]
FEW, MANY = FACTS[:3], [*FACTS, *(Fact("LeBron James plays {} in", name) for name in ("basketball", "Rome", "Paris"))]


@pytest.mark.parametrize(("facts", "tokens"), [(FEW, 2048), (MANY, 30), (MANY, 2048)], ids=["few", "split", "many"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_many_facts_together_have_the_states_of_each_alone(
    family: str, facts: list[Fact], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is batched, padded and shared: against each text alone through the whole model."""
    monkeypatch.setattr("rome_engine.edit.key._TOKENS", tokens)
    model, layer = tiny.shared(family), 2
    contexts = Contexts(("{}", "The capital. {}", "To visit it, you have to travel to England. {}"), bare=0.5)
    subjects = Subjects(model, facts, contexts)
    mean, bare = subjects.mean(layer), subjects.bare(layer)
    assert torch.equal(subjects.mean_keys(layer), mean.keys)
    assert torch.equal(subjects.bare_outputs(layer, "values"), bare.values)
    assert torch.equal(subjects.bare_outputs(layer, "hidden"), bare.hidden)
    for number, fact in enumerate(facts):
        texts = [_alone(model, template, fact.subject, layer) for template in contexts.prompts(fact)]
        for name, alone in zip(("keys", "values", "hidden"), zip(*texts, strict=True), strict=True):
            states = torch.stack(alone)
            assert _close(getattr(mean, name)[number], torch.tensor([0.5, 0.25, 0.25]) @ states)
            assert not _close(getattr(mean, name)[number], states.mean(0))
            assert _close(getattr(bare, name)[number], states[0])


@pytest.mark.parametrize(
    ("templates", "bare", "weights"),
    [
        (("{}", "a {}", "b {}"), None, (1 / 3, 1 / 3, 1 / 3)),
        (("{}", "a {}", "b {}"), 0.7, (0.7, 0.15, 0.15)),
        (("{}", "a {}"), 0.0, (0.0, 1.0)),
        (("{}",), 0.7, (1.0,)),
    ],
)
def test_what_the_bare_prompt_counts_for(
    templates: tuple[str, ...], bare: float | None, weights: tuple[float, ...]
) -> None:
    assert Contexts(templates, bare).weights == pytest.approx(weights)


@pytest.mark.parametrize("bare", [-0.1, 1.5])
def test_a_bare_prompt_that_counts_for_what_cannot_be_is_refused(bare: float) -> None:
    with pytest.raises(EditError, match="between 0 and 1"):
        Contexts(("{}", "a {}"), bare)


def _alone(model: Any, template: str, subject: str, layer: int) -> list[torch.Tensor]:
    prompt = model.tokenize(template, subject)
    with (
        Trace(model.down_projection(layer), retain_input=True, clone=True) as down,
        Trace(model.blocks[layer], clone=True) as block,
        torch.no_grad(),
    ):
        model.module(input_ids=model.ids(prompt), use_cache=False)
    states = (down.input, down.output, first_tensor(block.output))
    return [state.reshape(len(prompt.input_ids), -1)[prompt.last_subject_token] for state in states]


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_nothing_above_the_layer_is_run_and_a_shared_context_only_once() -> None:
    model = tiny.language_model("llama")
    contexts = Contexts(("{}", "To visit it, you have to travel to England. {}"))
    seen: dict[int, int] = {}

    def count(layer: int, output: torch.Tensor) -> torch.Tensor:
        seen[layer] = seen.get(layer, 0) + first_tensor(output).shape[:2].numel()
        return output

    facts = [Fact("The capital of {} is", "Rome")] * 12
    assert not model.blocks_return_tuples  # found out once, by a run
    with ExitStack() as stack:
        for layer in range(tiny.LAYERS):
            hook = Trace(model.mlp(layer), edit_output=lambda output, _name, layer=layer: count(layer, output))
            stack.enter_context(hook)
        Subjects(model, facts, contexts).mean(1)
    texts = [template.replace("{}", "The capital of Rome") for template in contexts.templates]
    short, long = (len(model.tokenize(text).input_ids) for text in texts)
    # Twelve equal rows share all but their last token.
    assert seen == dict.fromkeys((0, 1), 2 * 12 + (short - 1) + (long - 1))
