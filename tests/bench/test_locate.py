"""Facts located and edited on tiny models: each number is that of a trace or of an edit made alone."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any

import numpy as np
import pytest

from rome_engine.bench import locate_sweep
from rome_engine.bench.counterfact import score
from rome_engine.bench.locate import default_layers, fixed_depth, locate_edit, swept, touched
from rome_engine.bench.locate_result import SCORES, LocateEdit
from rome_engine.bench.metrics.normalise import normalise
from rome_engine.bench.nll import Asked, target_nll
from rome_engine.edit import Edit, editor
from rome_engine.edit.editor import Editor
from rome_engine.errors import BenchError, EditError
from rome_engine.facts import Fact
from rome_engine.files import finite
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import SecondMoment
from rome_engine.trace import Settings
from rome_engine.trace.tracer import Tracer
from tests import tiny
from tests.edit.examples import bit_equal, random_edit, random_moment, state

SUBJECTS = ("The Louvre", "The Eiffel Tower", "The Colosseum", "the Big Ben", "the Space Needle", "LeBron James")
PROMPTS = ("You can find {} in", "To visit {}, you have to travel to", "{} is in", "In France, {} is", "Rome and {} in")
LAYERS = (1, 2)


def known(model: LanguageModel, count: int) -> list[Fact]:
    """Facts of a random model, whose answer is true where it is a word."""
    found: list[Fact] = []
    for number, prompt, subject in itertools.product(range(9), PROMPTS, SUBJECTS):
        fact = Fact(f"{number}: {prompt}", subject, paraphrases=("{} is in",), neighbourhood=("Japan is in",))
        token = int(model.next_token_logits(model.tokenize(fact.text, fact.subject, "auto")).argmax())
        answer = model.text([token]).strip()
        if answer.isalpha() and model.target_ids(fact.text, answer) == (token,):
            new = next(one for one in ("Paris", "Rome") if one != answer)
            found.append(replace(fact, target_true=answer, target_new=new, id=f"f{len(found)}"))
    assert len(found) >= count
    return found[:count]


@dataclass(frozen=True)
class Study:
    """A model, its facts, and all that one call takes."""

    model: LanguageModel
    facts: list[Fact]
    editor: Editor
    moments: dict[int, SecondMoment]

    def run(self, **changed: Any) -> LocateEdit:
        given = {"editor": self.editor, "facts": self.facts, "layers": LAYERS, **changed}
        return locate_edit(self.model, moments=self.moments, **{"window": 2, "samples": 2, "threshold": 0.002, **given})


@pytest.fixture(scope="module")
def study() -> Study:
    model = tiny.language_model("llama")
    method = editor("r-rome")
    layers = touched(model, method, range(model.n_layers))
    moments = {layer: random_moment(model.architecture.d_mlp, layer) for layer in layers}
    return Study(model, known(model, 8), method, moments)


@pytest.fixture(scope="module")
def found(study: Study) -> LocateEdit:
    before = state(study.model)
    located = study.run()
    assert bit_equal(study.model, before)
    return located


def test_curves_are_the_traces(study: Study, found: LocateEdit) -> None:
    settings = Settings(("mlp", "hidden"), (2,), samples=2, seed=0, positions="last-subject")
    tracer = Tracer(study.model, settings)
    for place in (0, len(found.facts) - 1):
        for one, trace in zip(found.tracing, tracer.maps(found.facts[place]), strict=True):
            row = trace.indirect_effect[trace.subject_range[1] - 1]
            assert (one.kind, one.window) == (trace.kind, trace.window)
            assert one.effect[place] == pytest.approx(row, abs=1e-6)
            assert one.total_effect[place] == pytest.approx(trace.total_effect, abs=1e-6)


def test_scores_are_those_of_edits_made_alone(study: Study, found: LocateEdit) -> None:
    assert found.layers == (1, 2) and found.depth == 1
    fact, at = found.facts[1], 1
    edit = study.editor.fit(study.model, [fact], study.moments, study.editor.default(study.model, found.layers[at]))
    asked = [Asked(fact.text, (fact.target_new or "",))]
    before = exp(-target_nll(study.model, asked)[0].nll[0])
    with edit.applied(study.model):
        case = score(study.model, [fact])[0]
        after = exp(-target_nll(study.model, asked)[0].nll[0])
    expected = {"rewrite": (after - before) / (1 - before), "es": case.es, "em": case.em, "ps": case.ps, "ns": case.ns}
    expected["free"] = 0.0  # a tiny random model never says it: see below
    assert {name: found.scores[name][1, at] for name in SCORES} == pytest.approx(expected, abs=1e-3)


def test_what_is_said_freely_is_said_under_the_facts_own_edit(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    model = study.model
    edits = {place: random_edit(model, (1, 2), seed=place) for place in (0, 1)}
    prompt = model.tokenize(study.facts[0].text)
    said = []
    for one in edits.values():
        with one.applied(model):
            said.append(model.text_after(prompt, model.generate([prompt], 32)[0]))
    words = [normalise(text.strip().partition("\n")[0])[0] for text in said]
    assert words[0] != words[1]
    for target in words:
        facts = [replace(study.facts[0], target_new=target)] * 2
        found = locate_sweep._scored(model, facts, edits, np.zeros(2), None, [0, 1])
        assert found["free"].tolist() == [float(word == target) for word in words]
    long = "The Eiffel Tower is in " * 12
    room = len(model.tokenize(long).input_ids) + 20
    monkeypatch.setattr(model, "architecture", replace(model.architecture, context=room))
    facts = [replace(study.facts[0], prompt=f"{long}{study.facts[0].prompt}"), study.facts[0]]
    found = locate_sweep._scored(model, facts, edits, np.zeros(2), None, [0, 1])
    assert np.isnan(found["free"][0]) and found["free"][1] in (0, 1) and not np.isnan(found["es"]).any()


def test_every_fact_is_accounted_for(found: LocateEdit) -> None:
    assert len(found.facts) + len(found.left) == found.given == 8
    assert all("is under 0.002: too small to localise" in one.reason for one in found.left)
    assert all((one.total_effect >= 0.002).all() for one in found.tracing)
    rows = found.rows()
    assert len(rows) == len(found.facts) * found.n_layers
    assert [row["layer"] for row in rows if row["es"] is not None] == [1, 2] * len(found.facts)
    record = json.loads(json.dumps(finite(found.to_dict())))
    assert record["facts"][0]["id"] == found.facts[0].id and record["layers"] == [1, 2]
    assert {one["name"] for one in record["controls"]} == {one.name for one in found.controls}


def test_the_seed_draws_the_facts_and_a_limit_takes_the_first_drawn(study: Study, found: LocateEdit) -> None:
    again = study.run()
    assert json.dumps(finite(again.to_dict())) == json.dumps(finite(found.to_dict()))
    drawn, some = [fact.id for fact in found.facts], study.run(limit=4)
    assert [fact.id for fact in some.facts] == drawn[: len(some.facts)] and len(some.facts) <= 4
    assert [fact.id for fact in study.run(seed=3, limit=4).facts] != drawn[:4]


def test_facts_that_cannot_be_used_are_told(study: Study, found: LocateEdit) -> None:
    wrong = replace(study.facts[0], target_true="Seattle", id="wrong")
    lacking = replace(study.facts[1], target_new=None, prompt="The {} in", id="lacking")
    told = {one.fact: one.reason for one in study.run(facts=[wrong, lacking, *study.facts[2:]]).left}
    assert "the model answers" in told["wrong"] and "lacks target_new" in told["lacking"]
    with pytest.raises(BenchError, match="of 2 facts can be traced and edited, and 3 are needed: lacking: it lacks"):
        study.run(facts=[wrong, lacking])


@dataclass(frozen=True)
class Choosy:
    """R-ROME that refuses some facts at one layer."""

    refuses: Callable[[Fact, int], bool]
    own: Editor = field(default_factory=lambda: editor("r-rome"))
    name: str = "choosy"

    def default(self, model: LanguageModel, layer: int | None = None) -> Any:
        return self.own.default(model, layer)

    def layers(self, config: Any) -> Sequence[int]:
        return self.own.layers(config)

    def fit(self, model: LanguageModel, facts: Sequence[Fact], moments: Any, config: Any, progress: Any = None) -> Edit:
        if self.refuses(facts[0], self.layers(config)[-1]):
            raise EditError("too hard")
        return self.own.fit(model, facts, moments, config, progress)


def test_a_refused_edit_is_told_and_the_others_go_on(study: Study, found: LocateEdit) -> None:
    name = found.facts[0].id
    some = study.run(editor=Choosy(lambda fact, layer: fact.id == name and layer == 2))
    assert [(one.fact, one.reason, one.layer) for one in some.refused] == [(name, "too hard", 2)]
    for score_name, values in some.scores.items():
        missing = np.isnan(values)
        assert missing[0, 1] and missing.sum() == 1
        assert values[~missing] == pytest.approx(found.scores[score_name][~missing], abs=1e-3)
    with pytest.raises(BenchError, match="choosy refused every edit, the first one because too hard"):
        study.run(editor=Choosy(lambda fact, layer: True))


def test_progress_is_told_by_phase(study: Study) -> None:
    told: list[tuple[str, int, int]] = []
    study.run(progress=lambda *at: told.append(at))
    phases = list(dict.fromkeys(phase for phase, _, _ in told))
    assert phases[:2] == ["asking", "tracing"] and phases[-1] == "generating, layer 2 (2 of 2)"
    assert all(0 <= done <= total for _, done, total in told)


def test_an_interruption_leaves_the_model_as_it_was(study: Study) -> None:
    before = state(study.model)

    def stop(phase: str, _done: int, _total: int) -> None:
        if phase.startswith("scoring"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(progress=stop)
    assert bit_equal(study.model, before)
    assert not any(module._forward_hooks for module in study.model.module.modules())


def test_layers(study: Study) -> None:
    model = study.model
    assert default_layers(model) == [0, 1, 2]
    assert swept(model, [3, 2, 3]) == sorted({2, 3, fixed_depth(model)})
    assert touched(model, editor("memit"), [2, 3]) == [1, 2, 3]
    with pytest.raises(BenchError, match="layers 0 to 3, not 4"):
        study.run(layers=(1, 4))
    with pytest.raises(BenchError, match="at least two layers"):
        study.run(layers=(fixed_depth(model),))
    with pytest.raises(BenchError, match="no score 'best'"):
        study.run(score="best")
