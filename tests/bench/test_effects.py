"""What an edit did to its facts: the model's own numbers before and after, and means within a fact first."""

from __future__ import annotations

from math import isclose, log

import pytest

from rome_engine.bench.effects import Effect, Text, ask, summary, unaskable
from rome_engine.bench.nll import Answered
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests import tiny
from tests.edit.examples import bit_equal, random_edit, state

FACTS = (
    Fact(
        "You can find {} in the city of",
        "The Eiffel Tower",
        target_true="Paris",
        target_new="Rome, the capital",
        paraphrases=("To visit {}, you have to travel to",),
        neighbourhood=("The Louvre is in",),
    ),
    Fact("The mother tongue of {} is", "Danielle Darrieux", target_new="Greece"),
)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny.language_model("llama")


def test_before_and_after_are_the_models_own_numbers(model: LanguageModel) -> None:
    before, edit = state(model), random_edit(model, (0, 2), rank=4)
    effects = ask(model, FACTS).after(model, edit)
    assert bit_equal(model, before)
    assert [[text.kind for text in effect.texts] for effect in effects] == [
        ["prompt", "paraphrase", "neighbour"],
        ["prompt"],
    ]
    assert effects[0].texts[1].text == "To visit The Eiffel Tower, you have to travel to"
    for effect in effects:
        for text in effect.texts:
            targets = [target for target in (effect.fact.target_new, effect.old) if target is not None]
            ids = [model.target_ids(text.text, target) for target in targets]
            prompt = model.tokenize(text.text)
            with edit.applied(model):
                after = [-model.target_log_probability(prompt, one) / len(one) for one in ids]
            first = [-model.target_log_probability(prompt, one) / len(one) for one in ids]
            assert text.before.nll == pytest.approx(first, rel=1e-4)
            assert text.after.nll == pytest.approx(after, rel=1e-4)
            assert text.before.nll != pytest.approx(after, rel=1e-3)


def test_the_old_answer_is_the_true_one_or_the_models(model: LanguageModel) -> None:
    first, second = ask(model, FACTS).olds
    prompt = model.tokenize(FACTS[1].text)
    said = model.text([int(model.next_token_logits(prompt).argmax())]).strip()
    assert first == "Paris" and second in (said, None) and (second is None) == (not said)


def test_facts_that_cannot_be_asked_are_named(model: LanguageModel) -> None:
    long = Fact("word " * 200 + "{} is", "Rome", target_new="x")
    none = Fact("{} is", "Rome")
    found = unaskable(model, [FACTS[0], long, none])
    assert set(found) == {1, 2} and "context" in found[1] and "target is empty" in found[2]
    assert not unaskable(model, FACTS)


def answered(new: float, old: float | None, argmax: tuple[bool, ...]) -> Answered:
    return Answered((-log(new), *(() if old is None else (-log(old),))), tuple((top,) for top in argmax))


def test_means_are_within_a_fact_first() -> None:
    none = answered(0.1, 0.9, (False, True))
    good = answered(0.9, 0.1, (True, False))
    near = answered(0.5, 0.2, (False, False))
    plain = answered(0.5, None, (True,))
    one = Effect(
        FACTS[0],
        "Paris",
        (
            Text("prompt", "", none, good),
            Text("paraphrase", "", none, good),
            Text("paraphrase", "", none, near),
            Text("neighbour", "", none, near),
        ),
    )
    two = Effect(FACTS[1], None, (Text("prompt", "", plain, plain),))
    three = Effect(FACTS[0], "Paris", (Text("prompt", "", none, none), Text("paraphrase", "", none, none)))
    found = summary([one, two, three])
    assert found["prompt"]["before"] == {"texts": 3, "success": 0.0, "argmax": pytest.approx(1 / 3)}
    assert found["prompt"]["after"] == {"texts": 3, "success": 0.5, "argmax": pytest.approx(2 / 3)}
    assert found["paraphrase"]["after"] == {"texts": 3, "success": 0.5, "argmax": 0.25}
    assert found["neighbour"]["before"] == {"texts": 1, "success": 1.0, "argmax": 1.0}
    assert found["neighbour"]["after"] == {"texts": 1, "success": 0.0, "argmax": 0.0}
    assert summary([two])["neighbour"]["after"] == {"texts": 0, "success": None, "argmax": None}
    shown = one.to_dict()
    assert isclose(shown["before"]["old"], 0.9) and isclose(shown["after"]["new"], 0.9) and shown["after"]["argmax"]
    assert "old" not in two.to_dict()["before"]
