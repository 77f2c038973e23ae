"""Tuning chooses by one part of the facts, reports on the other, and keeps what it found."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from rome_engine.bench.edits import measure
from rome_engine.bench.tune import check_grid, default_grid, default_layers, split, touched, tune
from rome_engine.edit import editor
from rome_engine.errors import EditError
from rome_engine.facts import Fact
from rome_engine.stats import SecondMoment
from tests import tiny
from tests.edit.examples import bit_equal, random_moment, state

SUBJECTS = ("The Louvre", "The Eiffel Tower", "The Colosseum", "the Big Ben", "the Space Needle", "LeBron James")
FACTS = [
    Fact(
        "You can find {} in",
        subject,
        target_true=true,
        target_new=new,
        paraphrases=("To visit {}, you have to travel to",),
        neighbourhood=("The capital of France is", "The capital of Japan is"),
    )
    for subject, (true, new) in zip(SUBJECTS, itertools.permutations(("Paris", "Rome", "London"), 2), strict=True)
]


def test_the_parts_share_no_subject() -> None:
    facts = [*FACTS, replace(FACTS[0], target_new="Seattle")]
    first, second = split(facts, 3, 3, seed=1)
    assert len(first) == len(second) == 3
    assert not {fact.subject for fact in first} & {fact.subject for fact in second}
    assert split(facts, 3, 3, seed=1) == (first, second) != split(facts, 3, 3, seed=2)
    with pytest.raises(EditError, match="6 subjects"):
        split(facts, 4, 3)


@pytest.mark.parametrize("method", ["r-rome", "memit"])
def test_the_best_of_all_trials_is_chosen(method: str) -> None:
    model = tiny.language_model("llama")
    before = state(model)
    chosen = editor(method)
    layers = [1, 2]
    needed = touched(model, chosen, layers)
    moments = {layer: random_moment(model.architecture.d_mlp, layer) for layer in needed}
    first, second = split(FACTS, 3, 3)
    told = []
    found = tune(
        model,
        chosen,
        first,
        second,
        moments,
        layers,
        {"value.clamp": (0.5, 3.0), "value.steps": (3,)},
        told=told.append,
    )
    assert bit_equal(model, before)
    assert tuple(told) == (*found.trials, *found.held_out)
    assert [trial.role for trial in found.trials] == ["layers", "layers", "settings", "settings"]
    assert [trial.role for trial in found.held_out] == ["best", "default", *["random"] * 3, "depth"]
    drawn = [trial.layer for trial in found.held_out if trial.role == "random"]
    assert len(set(drawn)) == 3 and found.held_out[0].layer not in drawn  # a control that was chosen would be none
    best = max(found.trials, key=lambda trial: trial.rank)
    assert chosen.layers(found.config)[-1] == best.layer
    assert found.held_out[0].layer == best.layer and found.held_out[0].settings == best.settings
    again = measure(model, chosen, second, moments, found.config)
    scores = found.held_out[0].scores
    assert scores is not None and scores.counts["es"] == 3
    assert scores.means["es"] == pytest.approx(sum(case.es for case in again) / 3)
    assert found.better is (found.held_out[0].rank > found.held_out[1].rank)
    assert not replace(found, held_out=(found.held_out[0], replace(found.held_out[0], role="default"))).better


def test_a_layer_whose_moment_is_singular_does_not_end_the_others() -> None:
    model = tiny.language_model("llama")
    chosen = editor("r-rome")
    moments = {layer: random_moment(model.architecture.d_mlp, layer) for layer in touched(model, chosen, [1, 2])}
    moments[1] = SecondMoment(model.architecture.d_mlp)
    moments[1].update(torch.ones(3, model.architecture.d_mlp))
    found = tune(model, chosen, FACTS[:2], FACTS[2:4], moments, [1, 2], {"value.steps": (3,)})
    assert "singular" in str(found.trials[0].failed) and found.config.layer == 2


def test_a_method_that_refuses_everything_says_so() -> None:
    model = tiny.language_model("gemma2")  # memit does not take norms behind the MLP
    chosen = editor("memit")
    moments = {layer: random_moment(model.architecture.d_mlp, layer) for layer in touched(model, chosen, [2])}
    with pytest.raises(EditError, match="no settings could be measured"):
        tune(model, chosen, FACTS[:2], FACTS[2:4], moments, [2], {})


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"value.steps": (2.5,)}, "steps is a whole number, not 2.5"),
        ({"value.clamp": (float("nan"),)}, "clamp is a number, not nan"),
        ({"value": (3,)}, "value is .*, not 3"),
        ({"jitter": (True,)}, "jitter is a number, not True"),
        ({"top_k": ("many",)}, "top_k is a whole number, not 'many'"),
        ({"openings": (5,)}, "openings is a list, not 5"),
        ({"klamp": (1,)}, "no setting klamp"),
        ({"layers": ((1,),)}, "layers cannot be tuned"),
        ({"guard.max_norm": (1.0,)}, "guard.max_norm cannot be tuned"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(grid: dict[str, tuple[Any, ...]], said: str) -> None:
    model = tiny.shared("llama")
    with pytest.raises(EditError, match=said):
        check_grid(model, editor("memit"), 2, grid)


@pytest.mark.parametrize("method", ["r-rome", "memit", "alphaedit", "emmet", "pmet", "ft-l", "lora"])
def test_every_method_has_something_to_try(method: str) -> None:
    model = tiny.shared("llama")
    grid = default_grid(editor(method).default(model))
    assert len(grid) >= 2 and all(len(values) > 1 for values in grid.values())
    assert default_layers(model) and max(default_layers(model)) < model.n_layers
