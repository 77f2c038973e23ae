from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rome_engine.errors import PromptError, TargetError, TraceError
from rome_engine.model import LanguageModel, run_with_cache
from rome_engine.trace import lens as module
from rome_engine.trace.lens import Lens, lens
from tests import tiny

PROMPT = "The Eiffel Tower is located in the city of"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_last_layer_says_what_the_model_says(family: str) -> None:
    model = tiny.shared(family)
    every = run_with_cache(model, PROMPT, "embed").logits[0].softmax(-1).double()  # (tokens, d_vocab)

    found = lens(model, PROMPT, answers=["Paris", "Rome"], top=tiny.VOCAB)

    by_token = np.zeros(every.shape)
    np.put_along_axis(by_token, found.top_ids[-1], found.top_probabilities[-1], axis=-1)
    assert np.allclose(by_token, every, rtol=1e-3, atol=1e-6)
    for answer in found.answers:
        wanted = every[:, answer.token_id]
        assert np.allclose(answer.probability[-1], wanted, rtol=1e-3, atol=1e-6)
        assert answer.rank[-1].tolist() == (1 + (every > wanted[:, None]).sum(-1)).tolist()
    assert np.allclose(found.entropy[-1], -(every * every.log()).sum(-1), rtol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt"])
def test_each_layer_is_unembedded_as_if_it_were_the_last(family: str) -> None:
    model = tiny.shared(family)
    seen = run_with_cache(model, PROMPT, ("embed", "blocks.*.hidden"))

    found = lens(model, PROMPT, top=1)

    assert found.layers == (-1, 0, 1, 2, 3)
    for row, tensor in enumerate(seen.values()):
        best = model.unembed(tensor[0]).softmax(-1).max(-1)
        assert found.top_ids[row, :, 0].tolist() == best.indices.tolist()
        assert np.allclose(found.top_probabilities[row, :, 0], best.values, rtol=1e-4)


def test_without_an_answer_it_is_what_the_model_says_next() -> None:
    model = tiny.shared("llama")
    found = lens(model, PROMPT)

    assert [answer.token_id for answer in found.answers] == [
        int(model.next_token_logits(model.tokenize(PROMPT)).argmax())
    ]
    assert found.answers[0].rank[-1, -1] == 1


def test_the_top_is_sorted_and_its_texts_are_those_of_its_tokens() -> None:
    model = tiny.shared("llama")
    found = lens(model, PROMPT, top=7)

    assert found.top_ids.shape == found.top_texts.shape == (5, len(found.tokens), 7)
    assert (np.diff(found.top_probabilities, axis=-1) <= 0).all()
    assert found.top_texts[2, 3, 4] == model.text([int(found.top_ids[2, 3, 4])])


def test_ranks_agree_with_the_top() -> None:
    found = lens(tiny.shared("llama"), PROMPT, answers=["Rome"], top=tiny.VOCAB)
    answer = found.answers[0]
    places = 1 + (found.top_ids == answer.token_id).argmax(-1)

    assert (places == answer.rank).all()
    assert len(set(answer.rank.ravel().tolist())) > 5  # else it would say nothing


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ticks = tiny.shared("llama"), list[tuple[int, int]]()
    whole = lens(model, PROMPT)

    monkeypatch.setattr(module, "ROWS", 7)
    parts = lens(model, PROMPT, progress=lambda done, total: ticks.append((done, total)))

    assert (parts.top_ids == whole.top_ids).all()
    assert (parts.answers[0].rank == whole.answers[0].rank).all()
    assert np.allclose(parts.entropy, whole.entropy, rtol=1e-5)
    assert ticks[0] == (7, whole.entropy.size)
    assert ticks[-1] == (whole.entropy.size, whole.entropy.size)


def test_entropy_lies_between_nothing_known_and_all() -> None:
    found = lens(tiny.shared("gpt2"), PROMPT)

    assert (found.entropy > 0).all()
    assert (found.entropy < np.log(tiny.VOCAB)).all()


def test_only_the_first_token_of_an_answer_is_followed() -> None:
    model = tiny.shared("llama")
    answer = lens(model, PROMPT, answers=["Zanzibar"]).answers[0]

    assert answer.answer == "Zanzibar"
    assert answer.token_id == model.target_ids(PROMPT, "Zanzibar")[0]
    assert answer.token == model.text([answer.token_id]) != " Zanzibar"


def test_rows_hold_every_cell_once() -> None:
    found = lens(tiny.shared("llama"), PROMPT, answers=["Paris", "Rome"])
    rows = found.rows()

    assert len(rows) == 2 * 5 * len(found.tokens)
    assert len({(row["answer"], row["layer"], row["token"]) for row in rows}) == len(rows)
    row = next(row for row in rows if (row["answer"], row["layer"], row["token"]) == (found.answers[1].token, 1, 2))
    assert row["rank"] == found.answers[1].rank[2, 2]
    assert row["top"] == found.top_texts[2, 2, 0]


def test_the_record_is_json_and_says_where_it_comes_from() -> None:
    model = tiny.shared("llama")
    record = json.loads(json.dumps(lens(model, PROMPT, bos="always").to_dict()))

    assert record["provenance"]["weights"] == model.weight_hash()
    assert record["provenance"]["bos_added"] is True
    assert record["provenance"]["input_ids"] == [list(model.tokenize(PROMPT, bos="always").input_ids)]
    assert len(record["answers"][0]["rank"]) == len(record["layers"]) == 5


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"prompt": " "}, PromptError),
        ({"answers": [""]}, TargetError),
        ({"top": 0}, TraceError),
    ],
)
def test_what_cannot_be_read_is_refused(options: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        lens(tiny.shared("llama"), **{"prompt": PROMPT, **options})  # type: ignore[arg-type]


def test_states_that_are_not_finite_are_refused() -> None:
    model: LanguageModel = tiny.language_model("llama")
    with torch.no_grad():
        model.down_projection(2).weight[0, 0] = float("inf")  # type: ignore[operator,index]

    with pytest.raises(TraceError, match="not finite"):
        lens(model, PROMPT)


@pytest.mark.embedded
def test_the_answer_rises_to_the_top_in_a_real_model(embedded_model: LanguageModel) -> None:
    found: Lens = lens(embedded_model, PROMPT, answers=["Paris"])
    ranks = found.answers[0].rank[:, -1]

    assert ranks[0] > 100
    assert ranks[-1] == 1
