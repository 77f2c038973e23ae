"""What is put down of where a run was made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rome_engine.bench.plan import environment
from rome_engine.bench.run_file import RunFile
from rome_engine.errors import ClusterError, RunError
from rome_engine.model.replica import Replica
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


def test_a_worker_that_runs_the_same_weights_otherwise_is_refused() -> None:
    model = tiny.language_model("mistral", sliding_window=4)
    replica = Replica.of(model, lambda: tiny.language_model("mistral", sliding_window=4))
    assert replica().weight_hash() == model.weight_hash()
    other = Replica.of(model, lambda: tiny.language_model("mistral", sliding_window=None))
    with pytest.raises(ClusterError, match="a worker has the config"):
        other()


def test_a_model_that_does_not_say_where_texts_end_has_a_config_too() -> None:
    model = tiny.language_model("llama")
    known = model.config_hash()
    model.module.generation_config = None
    assert len(model.config_hash()) == 64 == len(known)


def test_a_run_of_a_version_that_put_down_less_goes_on(tmp_path: Path) -> None:
    now = environment(tiny.language_model("llama"))
    with RunFile(tmp_path / "r") as file:
        file.begin({"method": "rome"}, {name: value for name, value in now.items() if name != "config"}, 1)
        file.begin({"method": "rome"}, now, 1)
        with pytest.raises(RunError, match="was made with dtype"):
            file.begin({"method": "rome"}, {**now, "dtype": "float64"}, 1)
    with RunFile(tmp_path / "s") as file:
        file.begin({"method": "rome"}, now, 1)
        with pytest.raises(RunError, match="was made with config"):
            file.begin({"method": "rome"}, {**now, "config": "other"}, 1)
