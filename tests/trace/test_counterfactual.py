"""The other subject of a swap: as many tokens, another answer, looked for among known facts."""

from __future__ import annotations

import pytest

from rome_engine.errors import TraceError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import Settings, counterfactual, trace, trace_maps
from rome_engine.trace.counterfactual import find_partner, fitting_partner, named_partner
from tests import tiny

PLACE = "You can find {} in the city of"
SUBJECT = "The Louvre"
OTHERS = ("The Colosseum", "Big Ben", "The Needle", "The Tower", "The Paris", "The Seattle", "Rome", "LeBron James")


@pytest.fixture(autouse=True)
def sure_of_nothing(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Random models give no answer the probability that a known one has."""
    if "embedded" not in request.keywords:
        monkeypatch.setattr(counterfactual, "MARGIN", 0.0)


def facts(*subjects: str, relation: str = "place") -> list[Fact]:
    return [Fact(PLACE if relation == "place" else "{} is", name, relation=relation) for name in subjects]


def test_the_partner_has_the_same_tokens_elsewhere_and_another_answer() -> None:
    model = tiny.shared("llama")
    clean = model.tokenize(PLACE, SUBJECT)
    answer = int(model.next_token_logits(clean).argmax())
    found = find_partner(model, PLACE, clean, answer, facts(*OTHERS))
    begin, end = clean.subject_range or (0, 0)
    assert found.subject in OTHERS and found.prompt.subject_range == clean.subject_range
    assert found.prompt.input_ids[:begin] == clean.input_ids[:begin]
    assert found.prompt.input_ids[end:] == clean.input_ids[end:]
    logits = model.next_token_logits(found.prompt)
    assert found.answer_id == int(logits.argmax()) != answer
    assert found.probability == pytest.approx(float(logits.softmax(-1).max()), rel=1e-5)


def test_the_same_relation_comes_first() -> None:
    model = tiny.shared("llama")
    clean = model.tokenize(PLACE, SUBJECT)
    fitting = [name for name in OTHERS if fits(model, name)]
    assert len(fitting) > 1
    for name in fitting:
        rest = [other for other in fitting if other != name]
        known = [*facts(*rest, relation="another"), *facts(name)]
        assert find_partner(model, PLACE, clean, -1, known).subject == name


def fits(model: LanguageModel, name: str) -> bool:
    clean = model.tokenize(PLACE, SUBJECT)
    try:
        find_partner(model, PLACE, clean, -1, facts(name))
    except TraceError:
        return False
    return True


def test_where_none_fits_the_remedy_is_said() -> None:
    model = tiny.shared("llama")
    clean = model.tokenize(PLACE, SUBJECT)
    with pytest.raises(TraceError, match="swap:OTHER SUBJECT"):
        find_partner(model, PLACE, clean, -1, facts("The long mother tongue of Danielle Darrieux"))
    with pytest.raises(TraceError, match="as many tokens"):
        named_partner(model, PLACE, clean, "The long mother tongue", -1)


def test_a_facts_own_partner_is_used_where_it_fits_and_another_one_looked_for_where_not() -> None:
    model = tiny.shared("llama")
    clean = model.tokenize(PLACE, SUBJECT)
    answer = int(model.next_token_logits(clean).argmax())
    own = find_partner(model, PLACE, clean, answer, facts("Big Ben", "The Colosseum", "The Rome")).subject
    assert fitting_partner(model, PLACE, clean, own, answer) is not None
    assert fitting_partner(model, PLACE, clean, "The long mother tongue", answer) is None
    same = int(model.next_token_logits(model.tokenize(PLACE, own)).argmax())
    assert fitting_partner(model, PLACE, clean, own, same) is None  # the same answer is no contrast
    with pytest.raises(TraceError, match="same answer"):
        named_partner(model, PLACE, clean, own, same)
    with pytest.raises(TraceError, match="for itself"):
        named_partner(model, PLACE, clean, SUBJECT, -1)


def test_a_swap_is_one_row_and_says_with_whom() -> None:
    model = tiny.shared("llama")
    other = next(name for name in OTHERS if fits(model, name))
    settings = Settings(kinds=("hidden", "attn"), corruptions=(f"swap:{other}",))
    for found in trace_maps(model, PLACE, SUBJECT, settings):
        assert found.samples == 1 and found.provenance["counterfactual"] == other
        assert found.low != found.high and found.corruption == f"swap:{other}"


@pytest.mark.embedded
def test_a_partner_is_found_among_the_packages_own_facts(embedded_model: LanguageModel) -> None:
    found = trace(
        embedded_model, "{} is located in the city of", "The Eiffel Tower", noise="swap", bos="never", positions="last"
    )
    other = found.provenance["counterfactual"]
    assert other and other != "The Eiffel Tower"
    assert found.total_effect > 0.5 and found.scores[-1, -1] == pytest.approx(found.high, rel=1e-4)
