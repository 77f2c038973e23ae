"""CounterFact's scores are what their definition says, computed one text at a time."""

from __future__ import annotations

import math
from math import exp

import pytest
import torch

from rome_engine.bench.counterfact import CaseScores, harmonic, score, summary
from rome_engine.bench.nll import Asked, target_nll
from rome_engine.errors import TargetError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests import tiny

FACTS = [
    Fact(
        "{} is located in the city of",
        "The Eiffel Tower",
        target_true="Paris",
        target_new="Rome, the capital of Italy",
        paraphrases=("To visit {}, you have to travel to", "You can find {} in"),
        neighbourhood=("The Louvre is in", "The capital of France is", "You can find the Big Ben in"),
    ),
    Fact("The mother tongue of {} is", "Danielle Darrieux", target_true="French", target_new="Greek"),
]


def _definition(model: LanguageModel, text: str, target: str) -> tuple[float, bool]:
    prompt, tokens = model.tokenize(text).input_ids, model.target_ids(text, target)
    logits = model.module(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0].double().log_softmax(-1)
    said = [(len(prompt) - 1 + place, token) for place, token in enumerate(tokens)]
    nll = -sum(float(logits[place, token]) for place, token in said) / len(tokens)
    return nll, all(int(logits[place].argmax()) == token for place, token in said)


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_nll_is_the_mean_over_the_targets_tokens(family: str, batch_tokens: int) -> None:
    model = tiny.shared(family)
    asked = [Asked(fact.text, (str(fact.target_new), str(fact.target_true), "in")) for fact in FACTS]
    for one, answer in zip(asked, target_nll(model, asked, batch_tokens=batch_tokens), strict=True):
        for target, nll, argmax in zip(one.targets, answer.nll, answer.argmax, strict=True):
            expected, top = _definition(model, one.text, target)
            assert nll == pytest.approx(expected, rel=1e-4)
            assert argmax == top


def test_the_likeliest_token_is_told() -> None:
    model = tiny.language_model("llama")
    text = FACTS[0].text
    (word,) = model.target_ids(text, "city")
    logits = model.next_token_logits(model.tokenize(text))
    with torch.no_grad():  # the unembedding's row of the likeliest token becomes that of a word as well
        model.unembedding.weight[word] = 1.01 * model.unembedding.weight[int(logits.argmax())]
    assert target_nll(model, [Asked(text, ("city", "Rome"))])[0].argmax == (True, False)


def test_scores_follow_their_definition() -> None:
    model = tiny.shared("gpt2")
    fact = FACTS[0]
    (case, other) = score(model, FACTS)

    def s(text: str, target: str) -> float:
        return _definition(model, text, target)[0]

    new, true = str(fact.target_new), str(fact.target_true)
    paraphrases = [text.replace("{}", fact.subject) for text in fact.paraphrases]
    assert case.es == float(s(fact.text, new) < s(fact.text, true))
    assert case.em == pytest.approx(exp(-s(fact.text, new)) - exp(-s(fact.text, true)), rel=1e-4)
    assert case.ps == sum(s(text, new) < s(text, true) for text in paraphrases) / 2
    assert case.pm == pytest.approx(sum(exp(-s(text, new)) - exp(-s(text, true)) for text in paraphrases) / 2, rel=1e-4)
    assert case.ns == sum(s(text, true) < s(text, new) for text in fact.neighbourhood) / 3
    assert case.nm == pytest.approx(
        sum(exp(-s(text, true)) - exp(-s(text, new)) for text in fact.neighbourhood) / 3, rel=1e-4
    )
    assert math.isnan(other.ps) and math.isnan(other.ns) and not math.isnan(other.es)


def test_summary_counts_only_cases_that_have_such_prompts() -> None:
    def case(es: float, ps: float, ns: float) -> CaseScores:
        return CaseScores(es, 0.0, 0.0, ps, 0.0, 0.0, ns, 0.0, 0.0)

    found = summary([case(1.0, 0.5, 0.2), case(0.0, math.nan, 0.6)])
    assert found.means["es"] == 0.5 and found.means["ps"] == 0.5 and found.means["ns"] == pytest.approx(0.4)
    assert found.counts["ps"] == 1 and found.counts["es"] == 2
    assert found.score == pytest.approx(3 / (1 / 0.5 + 1 / 0.5 + 1 / 0.4))
    assert math.isnan(summary([]).means["es"])


def test_harmonic_mean() -> None:
    assert harmonic([1.0, 0.5]) == pytest.approx(2 / 3)
    assert harmonic([1.0, 0.0]) == 0


def test_a_fact_without_both_targets_is_refused() -> None:
    with pytest.raises(TargetError, match="target_true"):
        score(tiny.shared("gpt2"), [Fact("{} is in", "The Louvre", target_new="Rome")])


def test_owners_are_told_row_by_row() -> None:
    told: list[int] = []
    score(tiny.shared("gpt2"), FACTS, chosen=told.extend)
    assert set(told) == {0, 1} and told.count(1) == 1
