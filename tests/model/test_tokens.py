"""Subjects are found by character offsets, whatever the tokenizer does to spaces, characters and document ends."""

from __future__ import annotations

import random
import unicodedata
from itertools import product
from typing import Any

import pytest
from tokenizers import normalizers

from rome_engine.errors import (
    AmbiguousSubjectError,
    PromptError,
    SubjectNotFoundError,
    TargetError,
)
from rome_engine.model.tokens import Prompt, continuation, tokenize
from tests import tiny

EIFFEL = "The Eiffel Tower is located in the city of"
VARIANTS = {
    f"{style}{'+bos' * bos}{'+eos' * eos}": (style, bos, eos)
    for style, bos, eos in product(("bytes", "metaspace", "sentencepiece"), (False, True), (False, True))
}


def make(variant: str) -> Any:
    style, bos, eos = VARIANTS[variant]
    return tiny.tokenizer(style, adds_bos=bos, adds_eos=eos)  # type: ignore[arg-type]


@pytest.fixture(params=VARIANTS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return make(request.param)


def span_text(tokenizer: Any, prompt: Prompt) -> str:
    """What the subject's tokens say by themselves."""
    assert prompt.subject_range is not None
    begin, end = prompt.subject_range
    return str(tokenizer.decode(prompt.input_ids[begin:end]))


def check(tokenizer: Any, prompt: Prompt) -> None:
    """What holds of every tokenised prompt with a subject."""
    assert prompt.subject is not None
    assert prompt.subject_range is not None
    begin, end = prompt.subject_range
    assert prompt.prefix <= begin < end <= len(prompt.input_ids)
    assert prompt.last_subject_token == end - 1
    assert len(prompt.tokens) == len(prompt.input_ids)
    assert "".join(prompt.tokens[prompt.prefix :]) == prompt.text
    assert prompt.subject.strip() in span_text(tokenizer, prompt)
    # Neither end could be left out; but the "▁" put before a text counts as part of its first character.
    words = prompt.subject.strip()
    if begin > prompt.prefix or tokenizer.decode(prompt.input_ids[begin]).strip():
        assert words not in tokenizer.decode(prompt.input_ids[begin + 1 : end])
    assert words not in tokenizer.decode(prompt.input_ids[begin : end - 1])


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        (EIFFEL, "The Eiffel Tower"),
        (EIFFEL, "Eiffel"),
        (EIFFEL, "city"),
        (EIFFEL, "of"),  # at the very end
        ("Rome", "Rome"),  # the whole prompt
        (" The Louvre is in", "The Louvre"),  # a space in front
        ("  The  Louvre is in", "The  Louvre"),  # several
        ("The capital of Zürich and São Paulo is", "São Paulo"),
        ("The capital of Japan is 東京 and", "東京"),
        ("Is 東京", "京"),
        ("Straße ß and ﬁ 🗼 x", "🗼"),  # bytes over several tokens
        ("A 🗼🗽 here", "🗽"),
        ("Cafe\u0301 Müller is in", "Cafe\u0301 Müller"),  # a combining accent
        ("basketball", "ball"),  # inside a word
        ("In Seattle, the Space Needle", "Seattle"),  # before punctuation
        ("Who?\nThe Louvre\tis", "The Louvre"),
    ],
)
def test_spans(tokenizer: Any, prompt: str, subject: str) -> None:
    found = tokenize(tokenizer, prompt, subject)
    assert found.text == prompt
    check(tokenizer, found)


@pytest.mark.parametrize("subject", [" The Eiffel Tower", "Eiffel ", " Eiffel Tower "])
def test_spaces_around_a_subject_do_not_count(tokenizer: Any, subject: str) -> None:
    prompt = "See: The Eiffel Tower is located in"
    bare = tokenize(tokenizer, prompt, subject.strip())
    assert tokenize(tokenizer, prompt, subject).subject_range == bare.subject_range


def test_a_space_of_its_own_before_the_subject_is_not_its_token() -> None:
    tokenizer = tiny.tokenizer("bytes")
    found = tokenize(tokenizer, "the  東京 x", "東京")
    assert found.subject_range is not None
    assert found.tokens[found.subject_range[0]].strip()
    assert "Ġ" in tokenizer.convert_ids_to_tokens(list(found.input_ids))


def test_the_document_start_shifts_the_span_by_one() -> None:
    for style in ("bytes", "metaspace", "sentencepiece"):
        plain, started = make(style), make(f"{style}+bos+eos")
        one, other = tokenize(plain, EIFFEL, "Eiffel"), tokenize(started, EIFFEL, "Eiffel")
        assert one.subject_range is not None
        assert other.subject_range == (one.subject_range[0] + 1, one.subject_range[1] + 1)
        assert other.input_ids == (tiny.BOS, *one.input_ids)  # and no end token
        assert other.tokens == ("<s>", *one.tokens)
        assert (one.prefix, other.prefix) == (0, 1)
        assert not other.bos_added


def test_a_repeated_subject_raises_and_a_template_resolves_it(tokenizer: Any) -> None:
    prompt = "Rome and Rome are"
    with pytest.raises(AmbiguousSubjectError, match="2 times"):
        tokenize(tokenizer, prompt, "Rome")
    with pytest.raises(AmbiguousSubjectError):
        tokenize(tokenizer, "banana", "ana")  # overlapping
    first, second = (tokenize(tokenizer, place, "Rome") for place in ("{} and Rome are", "Rome and {} are"))
    assert first.input_ids == second.input_ids
    assert first.text == second.text == prompt
    assert first.subject_range is not None and second.subject_range is not None
    assert first.subject_range[1] <= second.subject_range[0]
    check(tokenizer, first)
    check(tokenizer, second)


def test_a_template_equals_its_text(tokenizer: Any) -> None:
    template = tokenize(tokenizer, "{} is located in the city of", "The Eiffel Tower")
    assert template == tokenize(tokenizer, EIFFEL, "The Eiffel Tower")


def test_absent_and_empty_raise(tokenizer: Any) -> None:
    with pytest.raises(SubjectNotFoundError, match="Louvre"):
        tokenize(tokenizer, EIFFEL, "Louvre")
    with pytest.raises(SubjectNotFoundError):
        tokenize(tokenizer, EIFFEL, "eiffel tower")  # case counts
    for empty in ("", "  \n"):
        with pytest.raises(PromptError, match="subject is empty"):
            tokenize(tokenizer, EIFFEL, empty)
        with pytest.raises(PromptError, match="prompt is empty"):
            tokenize(tokenizer, empty, "Rome")
    with pytest.raises(PromptError, match="exactly once"):
        tokenize(tokenizer, "{} and {}", "Rome")


def test_without_a_subject_there_is_no_span(tokenizer: Any) -> None:
    found = tokenize(tokenizer, EIFFEL)
    assert found.subject_range is None
    assert "".join(found.tokens[found.prefix :]) == EIFFEL
    with pytest.raises(PromptError, match="no subject"):
        _ = found.last_subject_token


def test_the_ids_are_the_tokenizers_own(tokenizer: Any) -> None:
    ids = tokenizer(EIFFEL)["input_ids"]
    expected = ids[:-1] if ids[-1] == tiny.EOS else ids
    assert list(tokenize(tokenizer, EIFFEL, "Eiffel").input_ids) == expected


def test_a_normaliser_that_composes_characters_loses_no_text() -> None:
    """Qwen's tokenizers compose accents first: offsets still speak of the text as it was given."""
    tokenizer = tiny.tokenizer("bytes")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    subject = "Zu\u0308rich"
    for text in (f"The city of {subject}", f"{subject} is", f"Cafe\u0301 in {subject}, Cafe\u0301"):
        found = tokenize(tokenizer, text, subject)
        assert "".join(found.tokens) == text
        assert unicodedata.normalize("NFC", subject) in span_text(tokenizer, found)


def test_random_texts_and_subjects() -> None:
    """The subject's tokens always say the subject, and the pieces always join to the text."""
    random_state = random.Random(0)
    words = ["The", "Eiffel", "São", "東京", "ß", "is", "in", "Müller's", "1889", "🗼", "x", "Αθήνα", "(b)", "café"]
    for variant in VARIANTS:
        tokenizer = make(variant)
        for _ in range(40):
            chosen = random_state.choices(words, k=random_state.randrange(1, 9))
            text = " " * random_state.randrange(2) + " ".join(chosen)
            begin = random_state.randrange(len(text))
            end = random_state.randrange(begin, len(text)) + 1
            subject = text[begin:end]
            if not subject.strip():
                continue
            found = tokenize(tokenizer, f"{text[:begin]}{{}}{text[end:]}", subject)
            assert found.text == text
            check(tokenizer, found)


# The document-start token


def test_never_adds_nothing() -> None:
    found = tokenize(tiny.tokenizer(), EIFFEL, "The Eiffel Tower", bos="never")
    assert (found.prefix, found.bos_added) == (0, False)
    assert found.subject_range is not None and found.subject_range[0] == 0


def test_auto_adds_one_only_before_a_subject_at_the_start() -> None:
    tokenizer = tiny.tokenizer()
    plain = tokenize(tokenizer, EIFFEL, "The Eiffel Tower")
    found = tokenize(tokenizer, EIFFEL, "The Eiffel Tower", bos="auto")
    assert found.input_ids == (tiny.BOS, *plain.input_ids)
    assert (found.prefix, found.bos_added) == (1, True)
    assert found.subject_range is not None and found.subject_range[0] == 1
    assert not tokenize(tokenizer, EIFFEL, "Eiffel", bos="auto").bos_added
    assert not tokenize(tokenizer, EIFFEL, bos="auto").bos_added


def test_always_adds_one_where_the_tokenizer_does_not() -> None:
    added = tokenize(tiny.tokenizer(), EIFFEL, "city", bos="always")
    assert (added.prefix, added.bos_added, added.input_ids[0]) == (1, True, tiny.BOS)
    for bos in ("always", "auto", "never"):
        own = tokenize(tiny.tokenizer(adds_bos=True), EIFFEL, "The Eiffel Tower", bos=bos)
        assert (own.prefix, own.bos_added) == (1, False)
        assert own.input_ids.count(tiny.BOS) == 1


def test_a_tokenizer_without_a_start_token() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.bos_token = None
    assert tokenize(tokenizer, EIFFEL, "The Eiffel Tower", bos="auto").prefix == 0
    with pytest.raises(PromptError, match="no document-start token"):
        tokenize(tokenizer, EIFFEL, "The Eiffel Tower", bos="always")


def test_an_unknown_policy_is_refused() -> None:
    unchecked: Any = getattr(tokenize, "__wrapped__", tokenize)  # without the tests' run-time check of types
    with pytest.raises(PromptError, match="auto, always, never"):
        unchecked(tiny.tokenizer(), EIFFEL, "Eiffel", "sometimes")


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(PromptError, match="Slow gives no character offsets"):
        tokenize(Slow(), EIFFEL, "Eiffel")


# Targets


@pytest.mark.parametrize("target", ["Rome", " Rome", "  Rome ", "Seattle and Rome", "東京", "Zürich"])
def test_a_target_follows_its_prompt_after_one_space(tokenizer: Any, target: str) -> None:
    prompt = tokenize(tokenizer, EIFFEL)
    ids = continuation(tokenizer, EIFFEL, target)
    together = tokenize(tokenizer, f"{EIFFEL} {target.strip()}").input_ids
    assert (*prompt.input_ids, *ids) == together
    assert not {tiny.BOS, tiny.EOS, tiny.PAD} & set(ids)


@pytest.mark.parametrize("space", [" ", "\n"])
def test_no_second_space_where_the_prompt_ends_in_one(tokenizer: Any, space: str) -> None:
    prompt = EIFFEL + space
    ids = continuation(tokenizer, prompt, " Rome")
    said = tokenizer.decode([*tokenize(tokenizer, prompt).input_ids, *ids], skip_special_tokens=True)
    assert said.lstrip() == EIFFEL + space + "Rome"


def test_the_target_of_a_model_with_metaspace_has_no_lone_space_token() -> None:
    for style in ("metaspace", "sentencepiece"):
        tokenizer = make(style)
        assert tokenizer.convert_ids_to_tokens(list(continuation(tokenizer, EIFFEL, "Rome"))) == ["▁Rome"]


@pytest.mark.parametrize("target", ["", "  ", "\n\t", "</s>", " <s> ", "<pad>", "Rome</s>"])
def test_a_target_that_says_nothing_is_refused(tokenizer: Any, target: str) -> None:
    with pytest.raises(TargetError):
        continuation(tokenizer, EIFFEL, target)


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(PromptError, match="UTF-8"):
        tokenize(tiny.tokenizer(), "caf\udcff is")
