"""Free text after openings: entropy, reference score and essence perplexity against naive counts."""

from __future__ import annotations

from math import exp, inf, log, log2, sqrt

import pytest

from rome_engine.bench.asks import Answers, Generated, GeneratedAnswer, Read, ReadAnswer
from rome_engine.bench.metrics import openings
from rome_engine.bench.metrics.entropy import words
from rome_engine.bench.record import Record
from tests.bench.metrics.by_hand import metric, record, value


def answered(case: Record, texts: list[str]) -> Answers:
    asks = openings.asked(case)
    return Answers({ask: GeneratedAnswer(text, False) for ask, text in zip(asks, texts, strict=True)})


def naive_entropy(tokens: list[str], n: int) -> float:
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return -sum(grams.count(gram) / len(grams) * log2(grams.count(gram) / len(grams)) for gram in set(grams))


def test_generation_entropy_is_the_naive_count() -> None:
    case = record(generation=("the cat", "the dog"))
    tails = [" sat on the mat and the cat sat on the mat", " ran and ran and ran"]
    expected = 0.0
    for opening, tail in zip(case.generation, tails, strict=True):
        tokens = (opening + tail).split()
        expected += (2 / 3 * naive_entropy(tokens, 2) + 4 / 3 * naive_entropy(tokens, 3)) / 2
    assert value("ge@1", case, answered(case, tails)) == pytest.approx(100 * expected / 2)


def test_the_published_scale() -> None:
    # 75 different words have 74 pairs and 73 triples, each once: what healthy text of that length comes to.
    case = record(generation=("w0",))
    text = "".join(f" w{number}" for number in range(1, 75))
    found = value("ge@1", case, answered(case, [text]))
    assert found == pytest.approx(100 * (log2(74) / 3 + 2 * log2(73) / 3)) and 615 < found < 625


def test_text_that_repeats_itself_has_no_entropy() -> None:
    case = record(generation=("no",))
    assert value("ge@1", case, answered(case, [" no" * 60])) == 0.0
    assert value("ge@1", case, answered(case, [""])) == 0.0


def test_word_tokens() -> None:
    assert words("She didn't pay $3,000.50, he'll say.") == [
        *("She", "did", "n't", "pay", "$", "3,000.50", ",", "he", "'ll", "say", "."),
    ]
    assert words("O'Brien's well-known U.S. \"act\" -- it's can't...") == [
        *("O'Brien", "'s", "well-known", "U.S.", '"', "act", '"', "--", "it", "'s", "ca", "n't", "..."),
    ]
    assert words("München, 東京") == ["München", ",", "東京"] and words(" \n") == []


def test_a_repeated_opening_is_continued_anew_with_seeds_that_stay() -> None:
    first, second, third = openings.asked(record(generation=("It is", "It is", "He was")))
    assert (first.text, first.tokens, first.top_k) == ("It is", 100, 5)
    assert len({first.seed, second.seed, third.seed}) == 3
    assert first == Generated("It is", 100, 5, 3328427105)  # the same on every machine and in every process


def test_texts_are_read_with_their_openings_in_one_form() -> None:
    case = record(generation=("It is",))
    assert openings.texts(case, answered(case, [" the ﬁrst\n\none\nhere"])) == ["It is the first one\nhere"]


def naive_cosine(generated: str, references: list[str]) -> float:
    """Over the whole vocabulary, word by word."""
    documents = [reference.split() for reference in references]
    said, wanted = generated.split(), [word for document in documents for word in document]
    dot = norm_said = norm_wanted = 0.0
    for word in set(said) | set(wanted):
        df = len([document for document in documents if word in document])
        idf = log((1 + len(documents)) / (1 + df)) + 1
        a, b = said.count(word) * idf, wanted.count(word) * idf
        dot, norm_said, norm_wanted = dot + a * b, norm_said + a * a, norm_wanted + b * b
    return dot / sqrt(norm_said * norm_wanted)


def test_reference_score_is_the_naive_cosine() -> None:
    references = ("rome is the capital of italy and rome is old", "the city of rome in italy", "naples is in italy")
    case = record(generation=("rome is", "it lies"), references=references)
    answers = answered(case, [" the capital of france", " in italy in the south"])
    said = "rome is the capital of france it lies in italy in the south"
    assert value("rs@1", case, answers) == pytest.approx(100 * naive_cosine(said, list(references)))


def test_reference_score_of_the_same_and_of_other_words() -> None:
    case = record(generation=("Rome is",), references=("ROME is old, a city",))
    assert value("rs@1", case, answered(case, [" city; OLD"])) == pytest.approx(100)
    apart = record(generation=("Paris was",), references=("Rome is old",))
    assert value("rs@1", apart, answered(apart, [" new"])) == 0.0
    wordless = record(generation=("-",), references=("Rome is old",))
    assert value("rs@1", wordless, answered(wordless, ["?"])) == 0.0


def test_reference_score_needs_references_and_openings() -> None:
    for case in (record(generation=("Rome is",)), record(references=("Rome is old",))):
        assert list(metric("rs@1").asks(case)) == [] and value("rs@1", case) is None


def test_fluency_and_consistency_read_the_same_texts() -> None:
    case = record(generation=("Rome is", "Rome is"), references=("Rome is old",))
    assert list(metric("ge@1").asks(case)) == list(metric("rs@1").asks(case)) != []


def test_essence_is_one_reading_of_all_texts() -> None:
    case = record(essence=("He was born.", "He died."))
    ask = Read("He was born. He died.", 100)
    assert list(metric("essence_ppl@1").asks(case)) == [ask]
    assert value("essence_ppl@1", case, Answers({ask: ReadAnswer(2.5)})) == pytest.approx(exp(2.5))
    assert value("essence_ppl@1", case, Answers({ask: ReadAnswer(0.0)})) == 1.0
    assert value("essence_ppl@1", case, Answers({ask: ReadAnswer(1e4)})) == inf
