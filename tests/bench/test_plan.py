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
