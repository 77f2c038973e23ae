"""What is put down of where a run was made."""

from __future__ import annotations

import pytest
import torch

from rome_engine.bench.plan import environment
from tests import tiny


def test_a_gpus_rounding_is_part_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    assert environment(model)["device"] == "cpu" and not {"tf32", "cuda"} & set(environment(model))
    monkeypatch.setattr(type(model), "device", property(lambda _: torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "some GPU")
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    found = environment(model)
    assert (found["device"], found["cuda"]) == ("some GPU", "12.9") and isinstance(found["tf32"], bool)


def test_another_tokenizer_is_another_environment() -> None:
    one, other = tiny.language_model("llama"), tiny.language_model("llama")
    assert environment(one) == environment(other)
    other.tokenizer = tiny.tokenizer("metaspace")
    assert environment(one)["tokenizer"] != environment(other)["tokenizer"]


def test_the_same_weights_run_otherwise_are_another_environment() -> None:
    one, other = tiny.language_model("mistral", sliding_window=4), tiny.language_model("mistral", sliding_window=None)
    assert one.weight_hash() == other.weight_hash() and one.config_hash() != other.config_hash()
    other.module.config.sliding_window = 4
    other.module.config._name_or_path, other.module.config.use_cache = "elsewhere", False
    assert environment(one) == environment(other)
    other.module.generation_config.eos_token_id = 7
    assert environment(one)["config"] != environment(other)["config"]
