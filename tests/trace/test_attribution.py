from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from rome_engine.errors import PromptError, TargetError, UnsupportedModelError
from rome_engine.model import LanguageModel, patched, run_with_cache
from rome_engine.model.heads import attention_projection
from rome_engine.model.hooks import Trace, first_tensor, with_first_tensor
from rome_engine.trace.attribution import Attribution, attribute
from tests import tiny

PROMPT = "The Eiffel Tower is located in the city of"


def size(found: Attribution) -> float:
    return max(abs(part.value) for part in found.contributions)


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_contributions_add_up_to_the_logit(family: str, heads: bool) -> None:
    model = tiny.shared(family)
    logits = model.next_token_logits(model.tokenize(PROMPT))

    found = attribute(model, PROMPT, answer="Paris", heads=heads)

    cap = model.architecture.softcap
    assert found.capped == pytest.approx(float(logits[found.answer_id]), rel=1e-4, abs=1e-5)
    if cap is None:
        assert found.logit == pytest.approx(found.capped, rel=1e-5)
    else:
        assert cap * torch.tensor(found.logit / cap).tanh() == pytest.approx(found.capped, rel=1e-4)
    assert found.total == pytest.approx(found.logit, rel=1e-4, abs=1e-5 * size(found))
    assert size(found) > 0.05


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_heads_and_biases_of_a_layer_add_up_to_its_attention(family: str) -> None:
    model = tiny.shared(family)
    whole, apart = attribute(model, PROMPT), attribute(model, PROMPT, heads=True)

    for layer in range(model.n_layers):
        attention = next(
            part.value for part in whole.contributions if (part.component, part.layer) == ("attention", layer)
        )
        parts = [part for part in apart.contributions if part.layer == layer and part.component != "mlp"]
        assert [part.head for part in parts] == [*range(tiny.HEADS), None]
        assert sum(part.value for part in parts) == pytest.approx(attention, rel=1e-4, abs=1e-5 * size(whole))
    rest = [part for part in whole.contributions if part.component != "attention"]
    assert rest == [part for part in apart.contributions if part.component not in ("head", "attention_bias")]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "phi"])
def test_with_a_foil_it_is_the_difference(family: str) -> None:
    model = tiny.shared(family)
    answer, foil = (attribute(model, PROMPT, answer=text) for text in ("Paris", "Rome"))

    both = attribute(model, PROMPT, answer="Paris", foil="Rome")

    assert (both.answer_id, both.foil_id) == (answer.answer_id, foil.answer_id)
    assert both.logit == pytest.approx(answer.logit - foil.logit, rel=1e-4, abs=1e-5)
    assert both.capped == pytest.approx(answer.capped - foil.capped, rel=1e-4, abs=1e-5)
    for part, one, other in zip(both.contributions, answer.contributions, foil.contributions, strict=True):
        assert part.value == pytest.approx(one.value - other.value, rel=1e-4, abs=1e-5 * size(answer))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_a_contribution_is_what_is_missing_without_it(family: str) -> None:
    """By the norms' textbook formulas, with the scale of the whole state."""
    model = tiny.shared(family)
    found = attribute(model, PROMPT, answer="Paris")
    seen = run_with_cache(model, PROMPT)
    last = model.n_layers - 1
    whole, part = (seen[f"blocks.{last}.{kind}"][0, -1].double() for kind in ("hidden", "mlp"))
    norm = model.module.get_submodule(model.architecture.final_norm)
    unembedding = model.module.get_submodule(model.architecture.unembedding)

    def normed(state: torch.Tensor) -> torch.Tensor:
        if not isinstance(norm, torch.nn.LayerNorm):
            return norm.weight * state / (whole.pow(2).mean() + norm.variance_epsilon).sqrt()
        return norm.weight * (state - state.mean()) / (whole.var(unbiased=False) + norm.eps).sqrt() + norm.bias

    with_it, without_it = (unembedding(normed(state).float())[found.answer_id] for state in (whole, whole - part))
    value = next(one.value for one in found.contributions if (one.component, one.layer) == ("mlp", last))
    assert value == pytest.approx(float(with_it - without_it), rel=1e-4)


def test_a_head_that_is_switched_off_contributes_nothing() -> None:
    model = tiny.shared("llama")

    def without(tensor: torch.Tensor, _name: str) -> torch.Tensor:
        tensor[:, :, 2] = 0
        return tensor

    with patched(model, {"blocks.1.heads": without}):
        found = attribute(model, PROMPT, heads=True)

    values = {(part.layer, part.head): part.value for part in found.contributions if part.component == "head"}
    assert values[1, 2] == 0
    assert all(value != 0 for place, value in values.items() if place != (1, 2))


def test_without_an_answer_it_is_the_models_own() -> None:
    model = tiny.shared("llama")
    logits = model.next_token_logits(model.tokenize(PROMPT))

    found = attribute(model, PROMPT)

    assert found.answer_id == int(logits.argmax())
    assert found.answer == model.text([found.answer_id])
    assert found.foil is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_number_types(dtype: torch.dtype) -> None:
    for family in ("llama", "gemma3", "gpt2"):
        model = LanguageModel(tiny.model(family, dtype=dtype), tiny.tokenizer())
        found = attribute(model, PROMPT, heads=True)
        assert abs(found.residual) < (1e-6 if dtype == torch.float64 else 0.05) * size(found)


def test_a_head_layout_that_does_not_hold_is_refused_for_heads_only() -> None:
    model = tiny.language_model("gpt2")

    with Trace(attention_projection(model, 0), edit_input=lambda states, _layer: states.flip(-1)):
        attribute(model, PROMPT)
        with pytest.raises(UnsupportedModelError, match="heads"):
            attribute(model, PROMPT, heads=True)


def test_contributions_that_do_not_add_up_are_refused() -> None:
    model = tiny.language_model("gpt2")

    def shifted(output: Any, _layer: str | None) -> Any:
        states = first_tensor(output)
        return with_first_tensor(output, states + torch.linspace(-1, 1, states.shape[-1]))

    with Trace(model.blocks[1], edit_output=shifted), pytest.raises(UnsupportedModelError, match="add up"):
        attribute(model, PROMPT)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"prompt": ""}, PromptError),
        ({"answer": " "}, TargetError),
        ({"answer": "Paris", "foil": "Paris"}, TargetError),
    ],
)
def test_what_cannot_be_attributed_is_refused(options: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        attribute(tiny.shared("llama"), **{"prompt": PROMPT, **options})


def test_rows_and_record() -> None:
    model = tiny.shared("phi")
    found = attribute(model, PROMPT, heads=True)
    record = json.loads(json.dumps(found.to_dict()))

    assert len(found.rows()) == 1 + model.n_layers * (tiny.HEADS + 2) + 2
    assert sum(row["value"] for row in record["contributions"]) == pytest.approx(record["total"])
    assert record["provenance"]["weights"] == model.weight_hash()
    assert found.contributions[-1].value != 0  # Phi's unembedding has a bias


@pytest.mark.embedded
def test_a_real_model(embedded_model: LanguageModel) -> None:
    found = attribute(embedded_model, PROMPT, answer="Paris", foil="Rome", heads=True)

    assert found.logit > 0
    assert abs(found.residual) < 1e-4 * found.logit
