"""A ledger: what is taken out was never there, and what was killed goes on as if it had not been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_engine.edit import editor, targets
from rome_engine.edit.closed_form import ClosedForm
from rome_engine.edit.combined import combined
from rome_engine.edit.context import Contexts
from rome_engine.edit.edit import LayerEdit
from rome_engine.edit.ledger import Ledger
from rome_engine.edit.value import ValueConfig
from rome_engine.errors import EditError, EditFileError, StatisticsError, StorageError, WrongWeightsError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import moments as collected
from tests import tiny
from tests.edit.examples import bit_equal, random_moment, state
from tests.stats.texts import corpus

LAYERS = (1, 2)
FACTS = [
    Fact.of("You can find The Eiffel Tower in the city of", "The Eiffel Tower", target_new="Rome"),
    Fact.of("The Louvre is in", "The Louvre", target_new="Seattle"),
    Fact.of("The mother tongue of LeBron James is", "LeBron James", target_new="French"),
    Fact.of("To visit the Big Ben, you have to travel to", "the Big Ben", target_new="Brazil"),
]
METHODS = ("memit-history", "alphaedit", "memit")


def ledger(model: LanguageModel, method: str = "memit-history", folder: Path | None = None) -> Ledger:
    return Ledger(model, method, moments(model), config(model, method), folder)


def config(model: LanguageModel, method: str) -> Any:
    default = editor(method).default(model)
    others = {"threshold": 5.0} if method == "alphaedit" else {"weight": 3.0}
    return replace(default, layers=LAYERS, value=ValueConfig(steps=3), length=4, **others)


def moments(model: LanguageModel) -> dict[int, Any]:
    return {layer: random_moment(model.architecture.d_mlp, layer) for layer in LAYERS}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_is_removed_was_never_there(family: str, method: str) -> None:
    model, other = tiny.language_model(family), tiny.language_model(family)
    before = state(model)
    whole, without = ledger(model, method), ledger(other, method)
    for name, fact in zip("abcd", FACTS, strict=True):
        whole.add(name, [fact])
        if name != "b":
            without.add(name, [fact])
    assert not bit_equal(model, state(other))
    whole.remove("b")
    assert [entry.name for entry in whole.entries] == ["a", "c", "d"]
    assert bit_equal(model, state(other))
    whole.close()
    assert bit_equal(model, before)


def test_an_edit_can_be_made_again_where_its_target_is_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "already_answered", lambda _model, facts, _tokens: [*range(len(facts))])
    made = ledger(tiny.language_model("llama"))
    for name, fact in zip("ab", FACTS, strict=False):
        made.add(name, [fact])
    made.remove("a")
    assert [entry.name for entry in made.entries] == ["b"]


def test_a_name_is_given_once_and_a_closed_one_is_no_empty_one() -> None:
    model = tiny.language_model("llama")
    made = ledger(model)
    made.add("a", FACTS[:1])
    before = state(model)
    with pytest.raises(EditError, match="has an edit 'a' already"):
        made.add_targets("a", made.entries[0].targets)
    assert bit_equal(model, before) and len(made) == 1
    made.close()
    with pytest.raises(EditError, match="is closed"):
        made.remove("a")


def test_settings_without_a_limit_are_opened_again(tmp_path: Path) -> None:
    model = tiny.language_model("llama")
    settings = config(model, "memit-history")
    settings = replace(settings, guard=replace(settings.guard, max_norm=inf))
    with Ledger(model, "memit-history", moments(model), settings, tmp_path / "l") as made:
        made.add("a", FACTS[:1])
    with Ledger.open(tmp_path / "l", model, moments(model)) as opened:
        assert opened.config == settings


def test_edits_of_more_facts_than_a_weight_has_ranks_are_one_of_that_rank() -> None:
    model = tiny.language_model("llama")
    made = ledger(model)
    for name in range(1 + model.d_model // len(FACTS)):
        made.add(str(name), FACTS)
    whole = combined([entry.edit for entry in made.entries])
    after = state(model)
    made.close()
    assert whole.rank == model.d_model
    with whole.applied(model):
        assert all(torch.allclose(weight, after[name], atol=1e-5) for name, weight in state(model).items())


def test_values_may_be_kept() -> None:
    model, other = tiny.language_model("llama"), tiny.language_model("llama")
    whole, without = ledger(model), ledger(other)
    for name, fact in zip("abc", FACTS, strict=False):
        whole.add(name, [fact])
    kept = {entry.name: entry.targets for entry in whole.entries}
    whole.remove("a", search=False)
    for name in "bc":
        without.add_targets(name, kept[name])
    assert bit_equal(model, state(other))
    assert torch.equal(whole.entries[0].targets.values[0].target, kept["b"].values[0].target)


def test_what_is_moved_was_made_there() -> None:
    model, other = tiny.language_model("llama"), tiny.language_model("llama")
    moved, made = ledger(model), ledger(other)
    for name, fact in zip("abcd", FACTS, strict=True):
        moved.add(name, [fact])
    for index in (2, 0, 1, 3):
        made.add("abcd"[index], [FACTS[index]])
    moved.move("c", 0)
    assert [entry.name for entry in moved.entries] == ["c", "a", "b", "d"]
    assert bit_equal(model, state(other))


def test_the_history_counts() -> None:
    """Negative control: two batches by memit are not two batches by memit-history."""
    weights = []
    for method in ("memit", "memit-history"):
        model = tiny.language_model("llama")
        made = ledger(model, method)
        made.add("a", FACTS[:2])
        made.add("b", FACTS[2:])
        weights.append(model.weight(LAYERS[-1]).clone())
    assert not torch.allclose(weights[0], weights[1], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_opened_again_it_goes_on_bit_for_bit(method: str, tmp_path: Path) -> None:
    uninterrupted, stopped = tiny.language_model("llama"), tiny.language_model("llama")
    whole = ledger(uninterrupted, method)
    whole.add("a", FACTS[:2])
    whole.add("b", FACTS[2:3])
    with ledger(stopped, method, tmp_path / "kept") as first:
        first.add("a", FACTS[:2])
    fresh = tiny.language_model("llama")
    with Ledger.open(tmp_path / "kept", fresh, moments(fresh)) as second:
        assert second.config == config(fresh, method)
        second.add("b", FACTS[2:3])
        assert fresh.weight_hash() == uninterrupted.weight_hash()


_KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))  # another number of them may round otherwise
from tests import tiny
from tests.edit.test_ledger import FACTS, ledger
model = tiny.language_model("llama")
made = ledger(model, "memit-history", Path(sys.argv[1]))
made.add("a", FACTS[:2])
def die(step, steps, loss):
    os.kill(os.getpid(), signal.SIGKILL)
made.add("b", FACTS[2:3], die)
"""


def test_a_killed_process_loses_only_what_it_was_at(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    command = [sys.executable, "-c", _KILLED, str(folder), str(torch.get_num_threads())]
    ended = subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}, check=False)
    assert ended.returncode == -signal.SIGKILL
    model, uninterrupted = tiny.language_model("llama"), tiny.language_model("llama")
    whole = ledger(uninterrupted)
    whole.add("a", FACTS[:2])
    whole.add("b", FACTS[2:3])
    with Ledger.open(folder, model, moments(model)) as made:
        assert [entry.name for entry in made.entries] == ["a"]
        made.add("b", FACTS[2:3])
        assert model.weight_hash() == uninterrupted.weight_hash()


def test_after_a_failure_all_is_as_before(tmp_path: Path) -> None:
    model = tiny.language_model("llama")
    made = ledger(model, folder=tmp_path / "kept")
    for name, fact in zip("abc", FACTS, strict=False):
        made.add(name, [fact])
    before, files = state(model), sorted(path.name for path in (tmp_path / "kept").iterdir())

    def interrupt(step: int, steps: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.add("d", FACTS[3:], interrupt)
    with pytest.raises(KeyboardInterrupt):
        made.remove("a", progress=interrupt)
    with pytest.raises(EditError, match="'a' already"):
        made.add("a", FACTS[3:])
    with pytest.raises(EditError, match="no edit 'x': it has a, b, c"):
        made.remove("x")
    with pytest.raises(EditError, match="places 0 to 2"):
        made.move("a", 3)
    assert [entry.name for entry in made.entries] == ["a", "b", "c"]
    assert bit_equal(model, before)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == files
    made.add("d", FACTS[3:])


def test_files_of_what_was_taken_out_go(tmp_path: Path) -> None:
    model = tiny.language_model("gpt2")
    with ledger(model, folder=tmp_path) as made:
        made.add("a/b c", FACTS[:1])
        made.add("two", FACTS[1:2])
        assert len(list(tmp_path.glob("*.safetensors"))) == 4
        made.remove("a/b c")
        assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_it_is_refused_where_it_does_not_belong(tmp_path: Path) -> None:
    model = tiny.language_model("llama")
    folder = tmp_path / "kept"
    with ledger(model, folder=folder) as made:
        made.add("a", FACTS[:1])
        with pytest.raises(StorageError, match=r"in use by another process"):
            Ledger.open(folder, model, moments(model))
    before = state(model)
    with pytest.raises(WrongWeightsError, match="other weights"):
        Ledger.open(folder, tiny.language_model("llama", seed=1), moments(model))
    with pytest.raises(StorageError, match="is a ledger already"):
        ledger(model, folder=folder)
    with pytest.raises(StorageError, match="no ledger"):
        Ledger.open(tmp_path / "none", model, moments(model))
    with pytest.raises(EditError, match="solves for no weights"):
        Ledger(model, "ft-l", {})
    page = json.loads((folder / "ledger.json").read_text())
    page["weights"] = "0" * 64
    (folder / "ledger.json").write_text(json.dumps(page))
    with pytest.raises(EditFileError, match="damaged"):
        Ledger.open(folder, model, moments(model))
    (state_file,) = folder.glob("*.state.safetensors")
    state_file.write_bytes(state_file.read_bytes()[:100])
    with pytest.raises(EditFileError, match="damaged"):
        Ledger.open(folder, model, moments(model))
    assert bit_equal(model, before)
    made.close()
    with pytest.raises(EditError, match="closed"):
        made.add("b", FACTS[1:2])


def test_its_own_moments_are_found_among_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model, text = tiny.language_model("llama"), corpus(tmp_path)
    own = collected(model, LAYERS, corpus=text, tokens=2000)
    with Ledger(model, "memit", own, config(model, "memit"), tmp_path / "kept") as made:
        made.add("a", FACTS[:1])
        weights = model.weight_hash()
    collected(model, LAYERS, corpus=text, tokens=3000)
    with pytest.raises(EditError, match="other second moments"):
        Ledger.open(tmp_path / "kept", model, collected(model, LAYERS))
    with Ledger.open(tmp_path / "kept", model):
        assert model.weight_hash() == weights
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.unlink()
    with pytest.raises(StatisticsError, match="neither shipped nor in the cache"):
        Ledger.open(tmp_path / "kept", model)


@pytest.mark.parametrize("facts", [FACTS[:2], []])
def test_what_it_cannot_edit_is_refused_before_any_search(
    facts: list[Fact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.language_model("llama")
    default = replace(editor("r-rome").default(model), layer=1)
    monkeypatch.setattr(ClosedForm, "search", lambda *_, **__: pytest.fail("it searched"))
    with pytest.raises(EditError, match="rewrites one fact at a time"):
        Ledger(model, "r-rome", moments(model), default).add("a", facts)


@pytest.mark.parametrize("there", [False, True])
def test_a_new_one_that_an_error_leaves_empty_is_not_kept(there: bool, tmp_path: Path) -> None:
    model = tiny.language_model("llama")
    folder = tmp_path / "kept"
    if there:
        folder.mkdir()
    with pytest.raises(EditError, match="at least one"), ledger(model, folder=folder) as made:
        made.add("a", [])
    assert folder.exists() == there and not (there and list(folder.iterdir()))
    with pytest.raises(EditError, match="at least one"), ledger(model, folder=folder) as made:
        made.add("a", FACTS[:1])
        made.add("b", [])
    with pytest.raises(RuntimeError), Ledger.open(folder, model, moments(model)) as made:
        assert len(made) == 1
        made.remove("a")
        raise RuntimeError
    assert (folder / "ledger.json").exists()


def test_the_last_ones_are_taken_out(tmp_path: Path) -> None:
    model, other = tiny.language_model("llama"), tiny.language_model("llama")
    with ledger(model, folder=tmp_path) as made, ledger(other) as one:
        for name, fact in zip("abc", FACTS, strict=False):
            made.add(name, [fact])
        one.add("a", FACTS[:1])
        made.truncate(1)
        assert bit_equal(model, state(other)) and [entry.name for entry in made.entries] == ["a"]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.parametrize("edits", [1, 2])
def test_where_sums_round_otherwise_it_says_so(edits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One edit shows it in the weights that come out, two already in those that the second was made for."""
    model = tiny.language_model("llama")
    with ledger(model, folder=tmp_path) as made:
        for name, fact in zip("ab"[:edits], FACTS, strict=False):
            made.add(name, [fact])
    before, added_to = state(model), LayerEdit.added_to
    monkeypatch.setattr(LayerEdit, "added_to", lambda change, weight: added_to(change, weight) * (1 + 2**-23))
    with pytest.raises(EditFileError, match=r"another kind of processor.* adding the edits again"):
        Ledger.open(tmp_path, model, moments(model))
    assert bit_equal(model, before)


def test_contexts_are_those_of_the_unedited_model() -> None:
    model = tiny.language_model("llama")
    made = ledger(model)
    assert isinstance(made.contexts, Contexts) and len(made.contexts.templates) > 1
    for name, fact in zip("ab", FACTS, strict=False):
        assert made.add(name, [fact]).provenance.contexts == made.contexts.hash
