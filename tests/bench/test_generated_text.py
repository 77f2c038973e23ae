"""Free text is read as it follows its prompt, whatever the tokenizer makes of spaces and special tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders
from transformers import PreTrainedTokenizerFast

from rome_engine.bench.answering import answer
from rome_engine.bench.asks import Answers, Generated
from rome_engine.bench.metrics import named
from rome_engine.bench.metrics.free import greedy
from rome_engine.bench.metrics.openings import texts
from rome_engine.bench.record import Question, Record
from rome_engine.facts import Fact
from rome_engine.model.language_model import LanguageModel
from tests import tiny

PROMPT = "The Louvre is in"
FACT = Fact("{} is in", "The Louvre", target_true="Paris", target_new="Rome")
RECORD = Record("0", (FACT,), (Question("efficacy", PROMPT, ("Rome",), "Paris"),), generation=(PROMPT,))


def own_decoder() -> Any:
    """Metaspace as its own decoder undoes it: in newer Llama-type tokenizers."""
    backend = Tokenizer.from_str(tiny.tokenizer("metaspace").backend_tokenizer.to_str())
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


TOKENIZERS: dict[str, Callable[[], Any]] = {
    **{
        f"{style}{'+bos' * bos}": lambda style=style, bos=bos: tiny.tokenizer(style, adds_bos=bos)
        for style in ("bytes", "metaspace", "sentencepiece")
        for bos in (False, True)
    },
    "metaspace, its own decoder": own_decoder,
}


@pytest.fixture(params=TOKENIZERS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return LanguageModel(tiny.model("llama"), TOKENIZERS[request.param](), "llama")


def saying(monkeypatch: pytest.MonkeyPatch, model: LanguageModel, text: str, *special: int) -> tuple[int, ...]:
    """Lets the model say this, with these tokens behind it; the tokens."""
    ids = (*model.target_ids(PROMPT, text), *special)

    def generate(prompts: Any, tokens: int, **_: Any) -> list[tuple[int, ...]]:
        return [ids[:tokens] for _ in prompts]

    monkeypatch.setattr(model, "generate", generate)
    return ids


def answers(model: LanguageModel, record: Record, *names: str) -> tuple[Answers, dict[str, float | None]]:
    metrics = named(names)
    (found,) = answer(model, [[ask for metric in metrics for ask in metric.asks(record)]])
    return found, {metric.name: metric.value(record, found, found) for metric in metrics}


@pytest.mark.parametrize(
    ("said", "exact", "begins"),
    [("Rome. It is in", 1.0, 1.0), ("Rome, the capital of Italy.", 0.0, 1.0), ("Paris", 0.0, 0.0)],
)
def test_an_answer_is_compared_as_text(
    monkeypatch: pytest.MonkeyPatch, model: LanguageModel, said: str, exact: float, begins: float
) -> None:
    saying(monkeypatch, model, said)
    found, figures = answers(model, RECORD, "free_em", "free_begins")
    assert found.generated(greedy(RECORD.questions[0])).text == f" {said}"
    assert figures == {"free_em@1": exact, "free_begins@1": begins}


def test_an_opening_and_what_follows_are_one_text(monkeypatch: pytest.MonkeyPatch, model: LanguageModel) -> None:
    saying(monkeypatch, model, "the capital of Italy.")
    found, figures = answers(model, RECORD, "ge")
    assert texts(RECORD, found) == ["The Louvre is in the capital of Italy."]
    assert figures["ge@1"] is not None


def test_a_space_at_the_prompts_end_is_not_doubled(monkeypatch: pytest.MonkeyPatch, model: LanguageModel) -> None:
    spaced = Generated(f"{PROMPT} ", 9)
    ids = model.target_ids(spaced.text, "Rome")
    monkeypatch.setattr(model, "generate", lambda prompts, tokens, **_: [ids])
    (found,) = answer(model, [[spaced]])
    assert (spaced.text + found.generated(spaced).text).split() == [*PROMPT.split(), "Rome"]


@pytest.mark.parametrize("special", [tiny.BOS, tiny.EOS, tiny.PAD])
def test_a_special_token_ends_the_answer(monkeypatch: pytest.MonkeyPatch, model: LanguageModel, special: int) -> None:
    """Chat models stop with tokens that their settings do not always name."""
    ids = saying(monkeypatch, model, "Rome", special, *model.target_ids(PROMPT, "Paris"))
    ask = Generated(PROMPT, len(ids))
    (found,) = answer(model, [[ask]])
    assert found.generated(ask).text == " Rome" and found.generated(ask).ended
    assert answers(model, RECORD, "free_em")[1] == {"free_em@1": 1.0}


def test_what_a_model_says_by_itself_follows_its_prompt(model: LanguageModel) -> None:
    """Of a real generation: prompt and answer joined are what all tokens are together."""
    ask = Generated(PROMPT, 6)
    (found,) = answer(model, [[ask]])
    prompt = model.tokenize(PROMPT)
    (ids,) = model.generate([prompt], 6)
    whole = str(model.tokenizer.decode([*prompt.input_ids[prompt.prefix :], *ids], skip_special_tokens=True))
    assert whole == PROMPT + found.generated(ask).text
