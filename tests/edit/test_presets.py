"""Settings measured for a model's weights are picked up for these weights, and for no others."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from math import inf
from pathlib import Path

import pytest

from rome_engine.edit import editor
from rome_engine.edit.configuration import configured
from rome_engine.edit.presets import FOLDER, find_preset, preset_path, save_preset
from rome_engine.errors import EditError
from rome_engine.model.language_model import LanguageModel
from rome_engine.resources import data_file
from tests import tiny


@pytest.mark.parametrize("method", ["r-rome", "memit", "alphaedit", "emmet", "pmet"])
def test_a_preset_is_picked_up(method: str) -> None:
    model = tiny.shared("llama")
    chosen = editor(method)
    before = chosen.default(model)
    at = {"layer": 2} if hasattr(before, "layer") else {"layers": (1, 2)}
    better = replace(before, value=replace(before.value, clamp=1.5), top_k=7, **at)
    save_preset(model, method, better, {"n": 3})
    assert chosen.default(model) == better
    named = chosen.default(model, 3)
    assert chosen.layers(named)[-1] == 3 and named.value.clamp == 1.5
    assert chosen.default(tiny.language_model("llama", seed=1)) == before
    assert editor("rome").default(model) != better
    found = find_preset(model, method)
    assert found is not None and found[0] == preset_path(model, method, model.weight_hash())
    assert found[1]["measured"] == {"n": 3} and "seed" not in found[1]["config"]


@pytest.mark.parametrize("method", ["ft-l", "lora"])
def test_a_baselines_preset_is_picked_up(method: str) -> None:
    model = tiny.shared("llama")
    chosen = editor(method)
    before = chosen.default(model)
    at = {"layer": 2, "limit": 0.01} if method == "ft-l" else {"layers": (2,)}
    better = replace(before, tuning=replace(before.tuning, epochs=3), **at)
    save_preset(model, method, better, {})
    assert chosen.default(model) == better


def test_memit_with_a_history_takes_memits_preset_where_it_has_none() -> None:
    model = tiny.shared("llama")
    plain, history = editor("memit"), editor("memit-history")
    save_preset(model, "memit", replace(plain.default(model), weight=3.0), {})
    assert history.default(model) == plain.default(model)
    save_preset(model, "memit-history", replace(plain.default(model), weight=4.0), {})
    assert history.default(model).weight == 4.0 and plain.default(model).weight == 3.0


def test_a_preset_that_does_not_fit_is_named() -> None:
    model = tiny.shared("llama")
    path = save_preset(model, "memit", editor("memit").default(model), {})
    path.write_text(path.read_text().replace('"weight": ', '"wait": '))
    with pytest.raises(EditError, match=f"the preset {path} cannot be used: .* no setting wait.*tune again"):
        editor("memit").default(model)


def test_a_damaged_preset_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.shared("llama")
    before = editor("memit").default(model)
    path = save_preset(model, "memit", replace(before, weight=1.0), {})
    assert path == preset_path(model, "memit", model.weight_hash())
    path.write_text(path.read_text()[:50])
    assert editor("memit").default(model) == before
    assert "tune again" in caplog.text


def test_settings_from_json() -> None:
    default = editor("memit").default(tiny.shared("llama"))
    found = configured(default, {"layers": [0, 1], "weight": 3, "value": {"clamp": 2}})
    assert found == replace(default, layers=(0, 1), weight=3.0, value=replace(default.value, clamp=2.0))
    with pytest.raises(EditError, match="no setting wieght: known are"):
        configured(default, {"wieght": 3})
    with pytest.raises(EditError, match="clamp above 0"):
        configured(default, {"value": {"clamp": -1}})


def test_every_setting_that_a_method_accepts_comes_back_from_json() -> None:
    default = replace(editor("r-rome").default(tiny.shared("llama")), bare=0.7)
    for given in (
        replace(default, bare=None),
        replace(default, guard=replace(default.guard, max_norm=inf)),
        replace(default, value=replace(default.value, clamp=inf), lengths=()),
    ):
        assert configured(default, json.loads(json.dumps(asdict(given)))) == given


SHIPPED = sorted((data_file("facts.json").parent / FOLDER).glob("*.json"))


@pytest.mark.embedded
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem.rpartition(".")[2])
def test_what_is_shipped_was_tuned_for_the_embedded_model_and_is_its_default(
    path: Path, embedded_model: LanguageModel
) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert preset_path(embedded_model, record["method"], embedded_model.weight_hash(), path.parent) == path
    default = json.loads(json.dumps(asdict(editor(record["method"]).default(embedded_model))))
    assert {name: default[name] for name in record["config"]} == record["config"]
    trials = record["measured"]["trials"]
    best = max(trials, key=lambda trial: trial["scores"]["score"])
    layers = record["config"].get("layers") or [record["config"]["layer"]]
    assert layers[-1] == best["layer"] and len(record["measured"]["held_out"]) >= 5
    for name, value in best["settings"].items():
        outer, _, inner = name.rpartition(".")
        assert (record["config"][outer] if outer else record["config"])[inner] == value
    random = [trial["layer"] for trial in record["measured"]["held_out"] if trial["role"] == "random"]
    assert random and best["layer"] not in random
