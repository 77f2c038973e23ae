from __future__ import annotations

import pytest
import torch

from rome_engine.errors import ActivationError, PromptError
from rome_engine.model import run_with_cache
from rome_engine.model.activations import Activations
from rome_engine.model.heads import attention_projection
from rome_engine.model.hooks import Trace
from rome_engine.model.sites import names
from tests import tiny

PROMPT = "The Eiffel Tower is located in the city of"
OTHER = "The Eiffel Tower is located in the city in"


def cached(family: str) -> Activations:
    return run_with_cache(tiny.shared(family), [PROMPT, OTHER])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_residual_stream_adds_up(family: str) -> None:
    model, seen = tiny.shared(family), cached(family)

    assert torch.equal(seen["embed"], seen["blocks.0.pre"])
    for layer in range(model.n_layers):
        pre, attn, mlp, hidden = (seen[f"blocks.{layer}.{kind}"] for kind in ("pre", "attn", "mlp", "hidden"))
        assert torch.allclose(pre + attn + mlp, hidden, rtol=1e-4, atol=1e-4)
        if layer:
            assert torch.equal(pre, seen[f"blocks.{layer - 1}.hidden"])
        assert (f"blocks.{layer}.mid" in seen) is not model.architecture.parallel
        if not model.architecture.parallel:
            assert torch.allclose(seen[f"blocks.{layer}.mid"] + mlp, hidden, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_keys_and_heads_are_what_the_projections_are_given(family: str) -> None:
    model, seen = tiny.shared(family), cached(family)

    for layer in range(model.n_layers):
        assert seen[f"blocks.{layer}.heads"].shape == (2, seen.logits.shape[1], tiny.HEADS, 8)
        with torch.no_grad():
            value = model.down_projection(layer)(seen[f"blocks.{layer}.key"])
            projected = attention_projection(model, layer)(seen[f"blocks.{layer}.heads"].flatten(-2))
        assert torch.allclose(value, seen[f"blocks.{layer}.value"], rtol=1e-4, atol=1e-4)
        if not model.architecture.sandwich:
            assert torch.equal(seen[f"blocks.{layer}.value"], seen[f"blocks.{layer}.mlp"])
            assert torch.allclose(projected, seen[f"blocks.{layer}.attn"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_last_states_give_the_logits(family: str) -> None:
    model, seen = tiny.shared(family), cached(family)

    assert torch.allclose(model.unembed(seen[f"blocks.{model.n_layers - 1}.hidden"]), seen.logits, rtol=1e-4, atol=1e-4)
    assert seen["final"].shape == seen["embed"].shape
    assert torch.allclose(seen.logits[0, -1], model.next_token_logits(model.tokenize(PROMPT)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "opt", "neox"])
def test_all_names_are_there_in_the_order_of_the_pass(family: str) -> None:
    seen, rows, tokens = cached(family), 2, len(tiny.shared(family).tokenize(PROMPT).input_ids)

    assert tuple(seen) == names(tiny.shared(family))
    assert all(tensor.shape[:2] == (rows, tokens) and not tensor.requires_grad for tensor in seen.values())


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("embed", ["embed"]),
        ("blocks.*.mlp", [f"blocks.{layer}.mlp" for layer in range(4)]),
        ("blocks.[12].mid", ["blocks.1.mid", "blocks.2.mid"]),
        (("final", "embed", "*.0.pre"), ["embed", "blocks.0.pre", "final"]),
    ],
)
def test_patterns_choose_names(pattern: str | tuple[str, ...], expected: list[str]) -> None:
    assert list(run_with_cache(tiny.shared("llama"), PROMPT, pattern)) == expected


def test_values_do_not_depend_on_what_else_is_asked_for() -> None:
    everything = cached("gpt2")

    for name in everything:
        only = run_with_cache(tiny.shared("gpt2"), [PROMPT, OTHER], name)
        assert list(only) == [name]
        assert torch.equal(only[name], everything[name])


def test_activations_are_copies() -> None:
    model = tiny.shared("llama")
    first = run_with_cache(model, PROMPT)
    kept = {name: tensor.clone() for name, tensor in first.items()}

    for tensor in run_with_cache(model, OTHER).values():
        tensor.zero_()

    assert all(torch.equal(first[name], kept[name]) for name in kept)
    assert any(not torch.equal(first[name], run_with_cache(model, OTHER)[name]) for name in kept)


def test_the_model_is_left_without_hooks() -> None:
    model = tiny.language_model("llama")

    run_with_cache(model, PROMPT)

    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())


@pytest.mark.parametrize("pattern", ["blocks.9.mlp", "attention", "", ("embed", "nothing"), ()])
def test_a_pattern_that_matches_nothing_is_refused(pattern: str | tuple[str, ...]) -> None:
    with pytest.raises(ActivationError, match=r"blocks\."):
        run_with_cache(tiny.shared("llama"), PROMPT, pattern)


def test_a_parallel_block_has_no_state_between() -> None:
    with pytest.raises(ActivationError, match=r"blocks\.\*\.mid"):
        run_with_cache(tiny.shared("gptj"), PROMPT, "blocks.*.mid")


def test_where_heads_cannot_be_told_apart_there_are_none() -> None:
    model = tiny.language_model("gpt2")

    with Trace(attention_projection(model, 0), edit_input=lambda states, _layer: states.flip(-1)):
        assert "blocks.0.heads" not in names(model)
        assert "blocks.0.attn" in names(model)
    assert "blocks.0.heads" in names(model)


def test_prompts_of_different_lengths_are_refused() -> None:
    with pytest.raises(ActivationError, match="different numbers of tokens"):
        run_with_cache(tiny.shared("gpt2"), [PROMPT, "The"])


def test_no_prompt_is_refused() -> None:
    with pytest.raises(ActivationError, match="no prompt"):
        run_with_cache(tiny.shared("gpt2"), [])
    with pytest.raises(PromptError, match="empty"):
        run_with_cache(tiny.shared("gpt2"), " ")


def test_a_document_start_token_can_be_put_in_front() -> None:
    model = tiny.shared("gpt2")

    with_start = run_with_cache(model, PROMPT, "embed", bos="always")

    assert with_start.prompts[0].bos_added
    assert torch.equal(with_start["embed"], run_with_cache(model, with_start.prompts[0], "embed")["embed"])
