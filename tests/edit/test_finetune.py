"""FT-L: no weight moves further than ε, and the edit is exactly what was found. What it shares: test_tuning."""

from __future__ import annotations

import pytest
import torch

from rome_engine.edit import editor
from rome_engine.edit.methods.finetune import FineTune, FineTuneConfig
from rome_engine.edit.tuning import TuningConfig
from rome_engine.errors import EditError
from tests import tiny
from tests.edit.examples import FACT, LAYER


@pytest.mark.parametrize("limit", [5e-4, 2e-2])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_weight_moves_further_than_the_limit_and_some_go_all_the_way(family: str, limit: float) -> None:
    model = tiny.language_model(family)
    config = FineTuneConfig(LAYER, limit, TuningConfig(epochs=8, learning_rate=5e-3))
    delta = FineTune().fit(model, [FACT], {}, config).delta(LAYER)
    assert delta.abs().max() == torch.tensor(limit)
    free = FineTune().fit(model, [FACT], {}, FineTuneConfig(LAYER, 1e3, config.tuning)).delta(LAYER)
    assert free.abs().max() > limit  # so it is the limit that holds


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_its_factors_keep_the_change_exactly(family: str, dtype: torch.dtype) -> None:
    model = tiny.language_model(family, dtype=dtype)
    change = FineTune().fit(model, [FACT], {}, FineTuneConfig(LAYER, tuning=TuningConfig(epochs=2))).layers[LAYER]
    delta = change.right.T  # the left factor is the identity
    assert torch.equal(change.delta(), delta) and delta.any()
    weight = model.weight(LAYER)
    assert torch.equal(change.added_to(weight), (weight.float() + delta).to(dtype))
    assert change.delta_norm == pytest.approx(float(delta.norm()), rel=1e-5)
    assert change.weight_norm == pytest.approx(float(weight.float().norm()), rel=1e-4)
    # It outgrows bfloat16: what small steps add up to is not rounded away on the way.
    assert not torch.equal(delta, delta.to(torch.bfloat16).float())


def test_only_the_named_layer_is_changed_and_the_default_is_the_published_one() -> None:
    model = tiny.language_model("gpt2")
    method = editor("ft-l")
    assert method.default(model) == FineTuneConfig(0, 5e-4, TuningConfig(25, 5e-4, stop_loss=0.01))
    assert list(method.fit(model, [FACT], {}, method.default(model, 2)).layers) == [2]


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(EditError, match="limit is 0"):
        FineTuneConfig(LAYER, limit=0.0)
