"""The known-answer filter: the same verdict as asking fact by fact, and a reason for everything left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rome_engine.facts import Fact
from rome_engine.trace import known
from tests import tiny
from tests.trace.known_facts import known_facts, whole_facts


@pytest.mark.parametrize("family", ["neox", "llama"])
def test_facts_of_the_models_own_answers_are_known_and_others_are_not(family: str) -> None:
    model = tiny.shared(family)
    right = known_facts(model, 9)
    wrong = [replace(fact, target_true="Seattle") for fact in right]
    verdicts = known.ask(model, [fact for pair in zip(right, wrong, strict=True) for fact in pair])
    assert [verdict.status for verdict in verdicts] == ["known", "unknown"] * 9
    assert all("the model answers" in verdict.reason for verdict in verdicts[1::2])
    assert len({len(model.tokenize(fact.prompt, fact.subject, "auto").input_ids) for fact in right}) > 2


def test_every_token_of_an_answer_counts_unless_only_the_first_one_does() -> None:
    """The model's own continuation is known whole; with another last token only its first one is."""
    model = tiny.shared("neox")
    (whole,) = whole_facts(model, 1)
    first = model.text(model.target_ids(whole.text, whole.target_true or "")[:1]).strip()
    wrong = replace(whole, target_true=f"{first} Seattle")
    both = [whole, wrong]
    assert [one.status for one in known.ask(model, both)] == ["known", "unknown"]
    assert [one.status for one in known.ask(model, both, answer_tokens="first")] == ["known", "known"]
    reason = known.ask(model, both)[1].reason
    assert reason.startswith("after ") and "the model answers" in reason and "not ' Seattle'" in reason


def test_the_policy_of_the_document_start_counts() -> None:
    """A fact whose answer hangs on the document start: known as the run would tokenise it, and not otherwise."""
    model = tiny.shared("llama")
    facts = known_facts(model, 40)  # by the policy auto
    never = [
        int(model.next_token_logits(model.tokenize(fact.prompt, fact.subject, "never")).argmax())
        == model.target_ids(fact.text, fact.target_true or "")[0]
        for fact in facts
    ]
    assert not all(never)
    assert [verdict.status == "known" for verdict in known.ask(model, facts, "never")] == never
    assert all(verdict.status == "known" for verdict in known.ask(model, facts, "auto"))


def test_what_cannot_be_asked_is_told_apart() -> None:
    model = tiny.shared("neox")
    good = known_facts(model, 1)[0]
    long = replace(good, prompt=f"{'word ' * tiny.CONTEXT}{{}} is in")
    facts = [good, replace(good, target_true=None), long, replace(good, target_true="</s>"), replace(good, id="again")]
    verdicts = known.ask(model, facts)
    assert [verdict.status for verdict in verdicts] == ["known", "malformed", "skipped", "malformed", "skipped"]
    for verdict, said in zip(
        verdicts[1:], ("no target_true", "context holds", "tokenises to", "says the same"), strict=True
    ):
        assert said in verdict.reason


def test_progress_reaches_its_end_and_nothing_is_asked_of_nothing() -> None:
    model = tiny.shared("neox")
    told: list[tuple[int, int]] = []
    known.ask(model, known_facts(model, 5), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (5, 5)
    assert known.ask(model, []) == []
    assert known.ask(model, [Fact("{} is", "Rome")])[0].status == "malformed"
