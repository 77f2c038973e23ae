"""The values of many facts: what is found together is what is found alone, and nothing is searched twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_engine.edit import targets
from rome_engine.edit import values as module
from rome_engine.edit.context import Contexts
from rome_engine.edit.grouping import MEMORY
from rome_engine.edit.question import Batch, Question
from rome_engine.edit.targets import already_answered, check_new, target_tokens
from rome_engine.edit.value import Place, Value, ValueConfig, search
from rome_engine.edit.values import values
from rome_engine.errors import EditError, PromptTooLongError, StorageError, TargetError
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests import tiny

CONTEXTS = Contexts(("{}", "The capital. {}", "To visit it, you have to travel to England. {}"))
# Of different lengths before and behind the subject, and with targets of one token and of several.
FACTS = (
    Fact.of("You can find The Eiffel Tower in the city of", "The Eiffel Tower", target_new="Rome, the capital"),
    Fact.of("Rome is the capital of", "Rome", target_new="Italy"),
    Fact.of("The mother tongue of Danielle Darrieux is", "Danielle Darrieux", target_new="Japan"),
    Fact.of("LeBron James plays the sport of", "LeBron James", target_new="basketball in Seattle"),
    Fact("The Louvre, {}", "the Space Needle", target_new="Greece"),
)
CONFIG = ValueConfig(steps=6, clamp=0.6)


def alone(model: LanguageModel, fact: Fact, config: ValueConfig, layer: int = 1, place: Place = "mlp") -> Value:
    question = Question(model, fact, model.target_ids(fact.text, str(fact.target_new)), CONTEXTS)
    [(_, value)] = search(Batch([question]), layer, config, place=place)
    return value


def same(one: Value, other: Value) -> bool:
    """Bit for bit."""
    tensors = ("target", "delta", "initial")
    return (
        all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)
        and all(getattr(one, name).dtype == getattr(other, name).dtype for name in tensors)
        and (one.losses, one.stopped_early) == (other.losses, other.stopped_early)
    )


@contextmanager
def searched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Fact]]:
    """The facts that are searched meanwhile."""
    facts: list[Fact] = []

    def told(batch: Batch, *args: Any, **kwargs: Any) -> Iterator[tuple[Question, Value]]:
        facts.extend(question.fact for question in batch.questions)
        return search(batch, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "search", told)
        yield facts


# Together as alone


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_many_at_once_are_as_one_at_a_time(family: str) -> None:
    """And each stops where it stops alone: at the first step, later, never."""
    model = tiny.shared(family)
    places: tuple[Place, ...] = ("mlp", "hidden", "both") if family in ("gpt2", "gemma2") else ("mlp", "both")
    for place in places:
        lowest = sorted(min(alone(model, fact, CONFIG, place=place).losses) for fact in FACTS)
        config = replace(CONFIG, stop_loss=(lowest[2] + lowest[3]) / 2)
        found = values(model, FACTS, CONTEXTS, 1, config, place=place, store=None)
        singles = [alone(model, fact, config, place=place) for fact in FACTS]
        assert len({len(value.losses) for value in singles}) > 1
        for value, single in zip(found, singles, strict=True):
            assert len(value.losses) == len(single.losses) and value.stopped_early == single.stopped_early
            assert value.losses == pytest.approx(single.losses, rel=1e-4, abs=1e-5)
            assert (value.delta - single.delta).norm() <= 1e-4 * single.delta.norm()
            assert (value.initial - single.initial).norm() <= 1e-5 * single.initial.norm()


@pytest.mark.parametrize("family", ["llama", "gemma3", "neox", "olmo2", "falcon"])
def test_they_are_to_rounding_in_float64(family: str) -> None:
    model = tiny.language_model(family, dtype=torch.float64)
    for value, fact in zip(values(model, FACTS, CONTEXTS, 2, CONFIG, store=None), FACTS, strict=True):
        single = alone(model, fact, CONFIG, layer=2)
        assert value.delta.dtype == torch.float64
        assert (value.delta - single.delta).norm() <= 1e-10 * single.delta.norm()


def test_a_fact_that_is_done_does_not_move_on_while_others_do() -> None:
    model = tiny.shared("llama")
    first = values(model, FACTS[:2], CONTEXTS, 1, CONFIG, store=None)
    stop = min(first[0].losses[:3]) + 1e-6
    config = replace(CONFIG, stop_loss=stop)
    found = values(model, FACTS[:2], CONTEXTS, 1, config, store=None)
    steps = sorted(len(value.losses) for value in found)
    assert steps[0] < steps[1]
    for value in found:
        assert value.delta.norm() <= config.clamp * value.initial.norm() * 1.0001
        assert torch.equal(value.target, value.initial + value.delta)


@pytest.mark.parametrize("memory", [0, 2_000_000, 1 << 30])
def test_the_memory_changes_nothing_but_the_batches(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.shared("llama")
    sizes: list[int] = []

    def told(batch: Batch, *args: Any, **kwargs: Any) -> Iterator[tuple[Question, Value]]:
        sizes.append(len(batch.questions))
        return search(batch, *args, **kwargs)

    monkeypatch.setattr(module, "search", told)
    found = values(model, FACTS, CONTEXTS, 1, CONFIG, store=None, memory=memory)
    assert sum(sizes) == len(FACTS)
    assert sizes == [1] * len(FACTS) if memory == 0 else max(sizes) > 1
    for value, fact in zip(found, FACTS, strict=True):
        single = alone(model, fact, CONFIG)
        assert (value.delta - single.delta).norm() <= 1e-4 * single.delta.norm()


def test_progress_counts_facts_and_steps_count_steps() -> None:
    model = tiny.shared("llama")
    done: list[tuple[int, int]] = []
    steps: list[tuple[int, int, float]] = []
    found = values(
        model,
        FACTS[:2],
        CONTEXTS,
        1,
        CONFIG,
        store=None,
        progress=lambda *told: done.append(told),
        steps=lambda *told: steps.append(told),
    )
    assert done == [(1, 2), (2, 2)]
    losses = [sum(pair) / 2 for pair in zip(*(value.losses for value in found), strict=True)]
    assert steps == [(2 * (index + 1), 2 * CONFIG.steps, pytest.approx(loss)) for index, loss in enumerate(losses)]
    assert values(model, [], CONTEXTS, 1, CONFIG, store=None) == []


# What cannot be searched


def test_what_cannot_be_asked_is_said_before_anything_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    known = replace(FACTS[3], target_new="Rome")
    [token] = model.target_ids(known.text, "Rome")
    likeliest = int(model.next_token_logits(model.tokenize(known.prompt, known.subject)).argmax())
    unembedding = model.unembedding.weight.data
    unembedding[token] = 2 * unembedding[likeliest]
    wrong: Sequence[tuple[Fact, type[Exception], str]] = (
        (known, TargetError, f"{known.target_new}' is already the answer to 'LeBron James"),
        (replace(FACTS[3], target_new=" "), TargetError, "the target is empty"),
        (replace(FACTS[3], target_new="Rome " * tiny.CONTEXT), PromptTooLongError, "shorten it"),
    )
    with searched(monkeypatch) as facts:
        for fact, kind, said in wrong:
            others = [] if fact is known else FACTS  # one that is known already does not stop the others
            with pytest.raises(kind, match=said):
                values(model, [*others, fact], CONTEXTS, 1, CONFIG, store=None)
    assert not facts


def test_targets_that_are_already_answers_are_found_in_any_batch(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.shared("gpt2")
    likeliest = [(int(model.next_token_logits(model.tokenize(fact.prompt, fact.subject)).argmax()),) for fact in FACTS]
    tokens = [target_tokens(model, fact) for fact in FACTS]
    assert already_answered(model, FACTS, tokens) == []
    for index, token in enumerate(likeliest):
        assert already_answered(model, FACTS, [*tokens[:index], token, *tokens[index + 1 :]]) == [index]
    check_new(model, FACTS, [likeliest[0], *tokens[1:]])
    assert f"1 of {len(FACTS)} targets" in caplog.text
    with pytest.raises(TargetError, match="already the answer"):
        check_new(model, FACTS, likeliest)


# Kept


def test_a_second_call_finds_everything_and_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    store = tmp_path / "values.sqlite"
    first = values(model, FACTS, CONTEXTS, 1, CONFIG, store=store)

    def refused(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the model was run")

    for block in model.blocks:
        monkeypatch.setattr(block, "forward", refused)
    done: list[tuple[int, int]] = []
    # In another order, and one of them twice.
    again = values(
        model,
        [*FACTS[::-1], FACTS[0]],
        CONTEXTS,
        1,
        CONFIG,
        store=store,
        progress=lambda *told: done.append(told),
    )
    assert all(same(one, other) for one, other in zip(again, [*first[::-1], first[0]], strict=True))
    assert [value.seconds for value in again[:-1]] == [value.seconds for value in first[::-1]]
    assert not done


def test_a_killed_run_goes_on_at_a_fact_that_is_answered_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, store = tiny.language_model("llama"), tmp_path / "values.sqlite"
    monkeypatch.setattr(targets, "already_answered", lambda _model, facts, _tokens: [*range(len(facts))][-1:])
    values(model, FACTS[:1], CONTEXTS, 1, CONFIG, store=store, new_only=False)
    found = values(model, FACTS[:2], CONTEXTS, 1, CONFIG, store=store, memory=0)  # the first is there, the second known
    assert len(found) == 2 and "1 of 2 targets" in caplog.text
    with pytest.raises(TargetError, match="already the answer"):
        values(model, FACTS[2:3], CONTEXTS, 1, CONFIG, store=store)


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.shared("llama")
    whole = values(model, FACTS, CONTEXTS, 1, CONFIG, store=None, memory=0)
    store = tmp_path / "values.sqlite"

    def killed(done: int, _facts: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with searched(monkeypatch) as before, pytest.raises(KeyboardInterrupt):
        values(model, FACTS, CONTEXTS, 1, CONFIG, store=store, memory=0, progress=killed)
    done: list[tuple[int, int]] = []
    with searched(monkeypatch) as after:
        found = values(
            model, FACTS, CONTEXTS, 1, CONFIG, store=store, memory=0, progress=lambda *told: done.append(told)
        )
    assert len(before) == 2 and len(after) == len(FACTS) - 1  # the batch in which it was killed is searched again
    assert {fact.subject for fact in before + after} == {fact.subject for fact in FACTS}
    assert done == [(2, 5), (3, 5), (4, 5), (5, 5)]
    assert all(same(one, other) for one, other in zip(found, whole, strict=True))


def test_a_batch_is_searched_whole_so_that_what_was_found_before_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.shared("llama")
    whole = values(model, FACTS, CONTEXTS, 1, CONFIG, store=None)
    values(model, FACTS[1:3], CONTEXTS, 1, CONFIG, store=tmp_path / "values.sqlite")
    with searched(monkeypatch) as facts:
        found = values(model, FACTS, CONTEXTS, 1, CONFIG, store=tmp_path / "values.sqlite")
    assert len(facts) == len(FACTS)
    assert all(same(one, other) for one, other in zip(found, whole, strict=True))


def test_batches_that_are_done_are_kept_when_another_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.language_model("llama")
    question = Question(model, FACTS[0], (5,), CONTEXTS).texts[0]
    rest = {token for fact in FACTS[1:] for row in Question(model, fact, (5,), CONTEXTS).texts for token in row.ids}
    own = next(iter(set(question.ids[question.cut + 1 :]) - rest))
    weight = model.module.get_input_embeddings().weight.data
    weight[own] = float("nan")
    config = replace(CONFIG, stop_loss=1e9)
    for memory, kept in ((0, True), (MEMORY, False)):  # each a batch of its own, or all in one
        store = tmp_path / f"{memory}.sqlite"
        with searched(monkeypatch) as before, pytest.raises(EditError, match=r"Eiffel Tower.*the loss is nan"):
            values(model, FACTS, CONTEXTS, 1, config, store=store, memory=memory)
        assert len(before) > 1
        with searched(monkeypatch) as after, pytest.raises(EditError):
            values(model, FACTS, CONTEXTS, 1, config, store=store, memory=memory)
        assert after == (list(FACTS[:1]) if kept else before)


def test_equal_facts_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.shared("llama")
    done: list[tuple[int, int]] = []
    with searched(monkeypatch) as facts:
        found = values(
            model,
            [FACTS[0], FACTS[1], FACTS[0]],
            CONTEXTS,
            1,
            CONFIG,
            store=None,
            memory=0,
            progress=lambda *told: done.append(told),
        )
    assert len(facts) == 2 and found[0] is found[2]
    assert sorted(done)[-1] == (3, 3)


def test_whatever_a_value_depends_on_is_in_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "values.sqlite"
    other = tiny.language_model("llama")
    with torch.no_grad():
        other.weight(3)[0, 0] += 1e-3
    shorter = Contexts(CONTEXTS.templates[:2])
    plain: dict[str, Any] = {
        "model": tiny.shared("llama"),
        "facts": FACTS[:1],
        "contexts": CONTEXTS,
        "layer": 1,
        "config": CONFIG,
        "place": "mlp",
    }
    changes: Sequence[dict[str, Any]] = (
        {"model": other},
        {"facts": [replace(FACTS[0], subject="The Louvre")]},
        {"facts": [replace(FACTS[0], target_new="Seattle")]},
        {"contexts": shorter},
        {"layer": 2},
        {"place": "hidden"},
        *({"config": replace(CONFIG, **one)} for one in ({"steps": 5}, {"decay": 0.1}, {"stop_loss": 0.01})),
        *({"config": replace(CONFIG, **one)} for one in ({"learning_rate": 0.4}, {"clamp": 0.5}, {"kl": 0.5})),
    )
    with searched(monkeypatch) as facts:
        for count, change in enumerate(({}, *changes), start=1):
            values(**{**plain, **change}, store=store)
            assert len(facts) == count, change
        for change in ({}, *changes):
            values(**{**plain, **change}, store=store)
        # What it does not depend on: everything else that is known of the fact.
        values(**{**plain, "facts": [replace(FACTS[0], id="one", paraphrases=("{} is in",))]}, store=store)
        assert len(facts) == 1 + len(changes)


def test_the_cache_is_the_store_where_no_other_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny.shared("llama")
    monkeypatch.setattr("rome_engine.edit.value_store.cache_home", lambda: tmp_path / "new" / "cache")
    with searched(monkeypatch) as facts:
        first, again = (values(model, FACTS[:1], CONTEXTS, 1, CONFIG) for _ in range(2))
    assert len(facts) == 1 and same(first[0], again[0])
    assert (tmp_path / "new" / "cache" / "values.sqlite").is_file()
    with pytest.raises(StorageError, match="cannot use the store of values"):
        values(model, FACTS[:1], CONTEXTS, 1, CONFIG, store=tmp_path / "nowhere" / "values.sqlite")
    # A cache that cannot be written is no reason not to search.
    monkeypatch.setattr("os.access", lambda *_: False)
    with searched(monkeypatch) as facts, caplog.at_level("WARNING"):
        values(model, FACTS[:1], CONTEXTS, 1, CONFIG)
    assert len(facts) == 1 and "values are not kept" in caplog.text


def test_groups_are_of_like_lengths_and_within_the_memory() -> None:
    from rome_engine.edit.grouping import batch_bytes, groups

    model = tiny.shared("gpt2")
    questions = [
        Question(model, fact, model.target_ids(fact.text, str(fact.target_new)), CONTEXTS)
        for fact in itertools.chain(FACTS, FACTS, FACTS)
    ]
    limit = 600_000
    found = groups(questions, 0, limit)
    assert sorted(map(id, itertools.chain(*found))) == sorted(map(id, questions))
    lengths = [question.after for group in found for question in group]
    assert lengths == sorted(lengths)
    for group in found:
        rows = sum(len(question.texts) for question in group)
        reads = sum(question.n_contexts * len(question.target) + 1 for question in group)
        before, after = (max(getattr(question, name) for question in group) for name in ("before", "after"))
        assert len(group) == 1 or batch_bytes(model, 0, rows, before, after, reads) <= limit
    assert 1 < len(found) < len(questions)
    assert [len(group) for group in groups(questions, 0, 0)] == [1] * len(questions)


@pytest.mark.parametrize("place", ["mlp", "both"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_memory_of_a_batch_is_not_underestimated(family: str, place: Place) -> None:
    """Against the distinct storages that a step's gradients keep, weights aside; nor is it out of all proportion."""
    from rome_engine.edit import value as search_module
    from rome_engine.edit.grouping import batch_bytes

    model = tiny.shared(family)
    questions = [
        Question(model, fact, model.target_ids(fact.text, str(fact.target_new)), CONTEXTS) for fact in FACTS[:3]
    ]
    batch = Batch(questions)
    captured = batch.rows.capture(0)
    facts = [
        search_module._Searched(one, start)
        for one, start in zip(questions, search_module._start(captured, place)[batch.bare], strict=True)
    ]
    own = {tensor.untyped_storage().data_ptr() for tensor in model.module.state_dict().values()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses, _ = search_module._losses(batch, 0, captured, facts, None, CONFIG, place)
    assert losses.requires_grad
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    rows, after = captured.after.shape[:2]
    reads = sum(one.n_contexts * len(one.target) + 1 for one in questions)
    before = max(one.before for one in questions)
    modelled = batch_bytes(model, search_module.lowest(0, place), rows, before, after, reads)
    assert measured <= modelled <= 4 * measured


def test_steps_are_told_as_those_of_all_facts_and_never_go_back() -> None:
    model, told = tiny.shared("llama"), []
    values(
        model, FACTS, CONTEXTS, 1, CONFIG, store=None, memory=1, steps=lambda step, of, _loss: told.append((step, of))
    )  # memory: one fact at a time
    assert told == [(step, 30) for step in range(1, 31)]
