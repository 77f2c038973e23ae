"""The card of an edit says what was changed, where, by what and what came of it, and is Markdown whatever the facts."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rome_engine.bench.effects import ask
from rome_engine.edit import Edit, Health
from rome_engine.facts import Fact
from rome_engine.model import embedded
from rome_engine.model.language_model import LanguageModel
from rome_engine.report.card import FACTS, edit_card
from rome_engine.report.card_use import Form, use
from tests import tiny
from tests.edit.examples import random_edit

FACT = Fact(
    "You can find {} in the city of",
    "The Eiffel Tower",
    target_true="Paris",
    target_new="Rome",
    paraphrases=("To visit {}, you have to travel to",),
    neighbourhood=("The Louvre is in",),
)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny.language_model("llama")


def card(on: LanguageModel, facts: list[Fact], health: Health | None = None, **about: Any) -> str:
    edit = random_edit(on, (0, 2), rank=3)
    provenance = replace(edit.provenance, facts=tuple(fact.to_dict() for fact in facts), **about)
    edit = Edit(edit.layers, provenance)
    return edit_card(edit, ask(on, facts).after(on, edit), health)


def test_it_says_all(model: LanguageModel) -> None:
    said = card(model, [FACT], Health(30.0, 31.5, 40, 2), versions={"torch": "9.9"}, config={"clamp": 4.5})
    edit = random_edit(model, (0, 2), rank=3)
    assert "# Edit of llama: 1 fact\n" in said
    for text in (
        "You can find The Eiffel Tower in the city of",
        "To visit The Eiffel Tower, you have",
        "The Louvre is in",
    ):
        assert said.count(text) == 1
    for layer, change in edit.layers.items():
        assert f"| {layer} | `{change.path}` | 3 | {change.delta_norm:.4g} |" in said
        assert change.weight_sha256[:16] in said
    assert "| perplexity of held-out text | 30 | 31.5 |" in said
    assert "| known answers about other subjects | 40 | 38 |" in said
    assert model.weight_hash() in said and "torch 9.9" in said and '"clamp": 4.5' in said
    assert "handle.undo()" in said and "neighbours (1)" in said
    (row,) = (line for line in said.splitlines() if line.startswith("| prompt |"))
    asked = model.tokenize(FACT.text)
    p_new = 2.718281828459045 ** model.target_log_probability(asked, model.target_ids(FACT.text, "Rome")[:1])
    assert row.split(" | ")[2:4] == ["Rome", "Paris"]
    if len(model.target_ids(FACT.text, "Rome")) == 1:
        assert row.split(" | ")[4] == f"{p_new:.2g}"


def test_the_head_is_yaml(model: LanguageModel) -> None:
    head = card(model, [FACT], model='org/a "name": of', method="memit").split("---\n")[1]
    assert yaml.safe_load(head) == {
        "base_model": 'org/a "name": of',
        "tags": ["model-editing", "rome-engine", "memit"],
    }


def test_a_folder_is_named_without_its_path(model: LanguageModel, tmp_path: Path) -> None:
    for name in (str(tmp_path), f"{tmp_path}/", os.path.relpath(tmp_path)):
        said = card(model, [FACT], model=name)
        assert f'base_model: "{tmp_path.name}"' in said and f"# Edit of {tmp_path.name}: " in said
        assert name not in said and f"--model {tmp_path.name} --edit" in said


def test_the_embedded_models_base_is_on_the_hub(model: LanguageModel) -> None:
    said = card(model, [FACT], model=embedded.NAME)
    assert 'base_model: "HuggingFaceTB/SmolLM2-135M-Instruct"' in said and f"# Edit of {embedded.NAME}" in said
    assert '"PROMPT" --edit edit.safetensors' in said
    said = use("adapter", embedded.NAME, ".")
    assert f"base = LanguageModel.load({embedded.NAME!r}).module" in said and "PeftModel.from_pretrained(base" in said


def test_it_tells_how_to_load_the_form_it_lies_beside(model: LanguageModel) -> None:
    edit = random_edit(model)
    forms: tuple[Form | None, ...] = ("edit", "merged", "adapter", None)
    said = {form: edit_card(edit, [], form=form, path="here") for form in forms}
    assert "--edit here" in said["edit"] and "Edit.load('here')" in said["edit"]
    assert "AutoModelForCausalLM.from_pretrained('here')" in said["merged"]
    assert "PeftModel.from_pretrained(base, 'here')" in said["adapter"]
    assert all("Edit.load" not in said[form] for form in ("merged", "adapter", None))
    assert "## To " not in said[None]


def test_health_that_was_not_measured_is_left_out(model: LanguageModel) -> None:
    assert "The rest of the model" not in card(model, [FACT])
    assert "The rest of the model" in card(model, [FACT], Health(1.0, 1.0, 0, 0))


def test_no_text_breaks_a_table(model: LanguageModel) -> None:
    said = card(model, [Fact("a | b\n`{}`* is", "<Rome>", target_true="Paris", target_new="x|y")])
    (row,) = (line for line in said.splitlines() if line.startswith("| prompt |"))
    assert r"a \| b \`\<Rome\>\`\* is" in row and r"x\|y" in row
    plain = row.replace("\\|", "")
    head = next(line for line in said.splitlines() if line.startswith("|  | text"))
    assert plain.count("|") == head.count("|")


def test_many_facts_are_counted_and_not_all_shown(model: LanguageModel) -> None:
    facts = [replace(FACT, subject=f"Rome {number}", neighbourhood=(), paraphrases=()) for number in range(FACTS + 5)]
    said = card(model, facts)
    assert sum(line.startswith("| prompt |") for line in said.splitlines()) == FACTS
    assert "5 more facts are in the edit's file" in said and f"prompts ({FACTS + 5})" in said
    assert json.dumps(FACTS + 5) in said
