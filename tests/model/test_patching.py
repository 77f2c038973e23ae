from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rome_engine.errors import ActivationError
from rome_engine.model import LanguageModel, patched, run_with_cache
from rome_engine.model.activations import Activations
from rome_engine.model.sites import names
from tests import tiny

PROMPT = "The Eiffel Tower is located in the city of"
OTHER = "The Eiffel Tower is located in the city in"


def same(one: Activations, other: Activations) -> bool:
    return torch.equal(one.logits, other.logits) and all(torch.equal(one[name], other[name]) for name in one)


def shifted(tensor: Tensor, _name: str) -> Tensor:
    # Uneven: a layer norm takes an even shift out again.
    return tensor + torch.linspace(-1, 1, tensor.shape[-1])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_handing_every_activation_on_changes_nothing(family: str) -> None:
    model = tiny.shared(family)
    plain = run_with_cache(model, PROMPT)
    exact = [name for name in names(model) if not name.endswith(("mid", "final"))]

    with patched(model, {name: lambda tensor, _name: tensor for name in exact}):
        assert same(run_with_cache(model, PROMPT), plain)
    with patched(model, {"*": lambda tensor, _name: tensor}):  # with mid, which goes by way of a difference
        assert torch.allclose(run_with_cache(model, PROMPT).logits, plain.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_patch_reaches_the_logits_and_leaves_nothing_behind(family: str) -> None:
    model = tiny.shared(family)
    plain = run_with_cache(model, PROMPT)
    kinds = ("embed", "pre", "heads", "attn", "mid", "key", "value", "mlp", "hidden")

    for name in [name for name in names(model) if name.endswith(kinds) and (name == "embed" or ".1." in name)]:
        with patched(model, {name: shifted}):
            changed = run_with_cache(model, PROMPT)
        assert float((changed.logits - plain.logits).abs().max()) > 1e-3, name
        assert torch.allclose(changed[name], shifted(plain[name], name), rtol=1e-4, atol=1e-4), name
    assert same(run_with_cache(model, PROMPT), plain)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gptj", "opt", "bloom"])
@pytest.mark.parametrize("kind", ["pre", "hidden", "mid"])
def test_the_states_of_another_prompt_give_its_answer(family: str, kind: str) -> None:
    """All tokens' residual stream at one layer decides everything after it."""
    model = tiny.shared(family)
    name = f"blocks.2.{kind}"
    if name not in names(model):
        pytest.skip("a parallel block")
    other = run_with_cache(model, OTHER)

    with patched(model, {name: lambda _tensor, name: other[name]}):
        changed = run_with_cache(model, PROMPT)

    assert not torch.allclose(run_with_cache(model, PROMPT).logits, other.logits, rtol=1e-2)
    assert torch.allclose(changed.logits, other.logits, rtol=1e-3, atol=1e-3)


def test_one_head_is_patched_alone() -> None:
    model = tiny.shared("llama")
    plain = run_with_cache(model, PROMPT)

    def without(tensor: Tensor, _name: str) -> Tensor:
        tensor[:, :, 1] = 0
        return tensor

    with patched(model, {"blocks.1.heads": without}):
        changed = run_with_cache(model, PROMPT)

    heads = changed["blocks.1.heads"]
    assert torch.equal(heads[:, :, 1], torch.zeros_like(heads[:, :, 1]))
    assert torch.equal(heads[:, :, [0, 2, 3]], plain["blocks.1.heads"][:, :, [0, 2, 3]])
    assert torch.equal(changed["blocks.0.hidden"], plain["blocks.0.hidden"])
    assert not torch.equal(changed["blocks.1.hidden"], plain["blocks.1.hidden"])


def test_patterns_name_many_and_functions_act_in_turn() -> None:
    model, seen = tiny.shared("llama"), list[str]()

    def note(tensor: Tensor, name: str) -> Tensor:
        seen.append(name)
        return tensor + 1

    with patched(model, {"blocks.*.mlp": note, "blocks.2.mlp": lambda tensor, _name: tensor * 0}):
        changed = run_with_cache(model, PROMPT)

    assert seen == [f"blocks.{layer}.mlp" for layer in range(4)]
    assert not changed["blocks.2.mlp"].any()
    assert changed["blocks.1.mlp"].any()


def test_patches_nest() -> None:
    model = tiny.shared("llama")

    with patched(model, {"blocks.1.mlp": shifted}), patched(model, {"blocks.2.attn": shifted}):
        nested = run_with_cache(model, PROMPT)
    with patched(model, {"blocks.1.mlp": shifted, "blocks.2.attn": shifted}):
        together = run_with_cache(model, PROMPT)

    assert same(nested, together)


def test_the_input_and_the_middle_of_a_block_go_together() -> None:
    model = tiny.shared("llama")
    other = run_with_cache(model, OTHER)

    with patched(model, {"blocks.1.mid": lambda _tensor, name: other[name], "blocks.1.pre": shifted}):
        changed = run_with_cache(model, PROMPT)

    assert torch.allclose(changed.logits, other.logits, rtol=1e-3, atol=1e-3)


def test_a_middle_whose_input_changes_unseen_is_refused() -> None:
    model = tiny.shared("llama")

    with (
        pytest.raises(ActivationError, match="one `patched`"),
        patched(model, {"blocks.1.mid": shifted}),
        patched(model, {"blocks.1.pre": shifted}),
    ):
        run_with_cache(model, PROMPT)


def test_gradients_pass_through_a_patch() -> None:
    model = tiny.shared("gpt2")
    ids = model.ids(model.tokenize(PROMPT))
    shift = torch.zeros(tiny.D_MODEL, requires_grad=True)

    with patched(model, {"blocks.1.value": lambda tensor, _name: tensor + shift}):
        model.module(input_ids=ids, use_cache=False).logits[0, -1, 7].backward()

    assert shift.grad is not None
    assert bool(shift.grad.any())


@pytest.mark.parametrize("result", [torch.zeros(1), None, 3.0])
def test_a_patch_of_another_shape_is_refused_and_undone(result: object) -> None:
    model = tiny.shared("llama")
    plain = run_with_cache(model, PROMPT)

    with (
        pytest.raises(ActivationError, match=r"blocks\.1\.attn.*return a tensor of shape"),
        patched(model, {"blocks.1.attn": lambda _tensor, _name: result}),  # type: ignore[arg-type,return-value]
    ):
        run_with_cache(model, PROMPT)

    assert same(run_with_cache(model, PROMPT), plain)


def test_an_exception_of_the_function_leaves_the_model_as_before() -> None:
    model = tiny.language_model("llama")
    plain = run_with_cache(model, PROMPT)

    def fails(_tensor: Tensor, _name: str) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), patched(model, {"*": fails}):
        run_with_cache(model, PROMPT)

    assert same(run_with_cache(model, PROMPT), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())


@pytest.mark.parametrize("pattern", ["blocks.9.mlp", "final", "logits"])
def test_a_patch_of_nothing_is_refused(pattern: str) -> None:
    model = tiny.language_model("llama")

    with pytest.raises(ActivationError, match=pattern), patched(model, {"embed": shifted, pattern: shifted}):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())


def test_a_patch_that_never_acts_is_said() -> None:
    model = tiny.shared("llama")

    def first_block_only(model: LanguageModel) -> None:
        model.blocks[0](torch.zeros(1, 2, tiny.D_MODEL), position_embeddings=(torch.ones(1, 2, 8),) * 2)

    with pytest.raises(ActivationError, match=r"blocks\.3\.mlp never acted"), patched(model, {"*.3.mlp": shifted}):
        first_block_only(model)


def test_a_model_that_does_not_run_needs_no_patch() -> None:
    with patched(tiny.shared("llama"), {"*": shifted}):
        pass
