"""Beginnings that texts share are run once, and every text's keys and values are those of the text alone."""

from __future__ import annotations

import pytest
import torch

from rome_engine.edit.prefix import keys_values
from rome_engine.model.hooks import Trace
from tests import tiny

SHARED = tuple(range(40, 52))
TEXTS = (
    (*SHARED, 5, 6, 7),
    (*SHARED, 5, 8),
    (),
    (*SHARED,),
    (9,),
    (*range(60, 72), 5, 6),
    (*range(60, 72), 5, 6),
    (*range(60, 72), 7),
)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], TEXTS[2:5], TEXTS[5:7]], ids=["many", "one", "short", "equal"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_equal_those_of_each_text_alone(family: str, texts: tuple[tuple[int, ...], ...]) -> None:
    model = tiny.shared(family)
    found = keys_values(model, texts)
    width = max(map(len, texts))
    for row, text in enumerate(texts):
        for part in (part[row] for layer in found.layers for part in layer):
            assert part.shape[1] == width
            assert not part[:, : width - len(text)].any()
        if text:
            cache = model.module(input_ids=torch.tensor([text]), use_cache=True).past_key_values
            for (keys, values), layer in zip(found.layers, cache.layers, strict=True):
                # A sliding window's cache forgets what lies before it.
                for part, alone in ((keys, layer.keys), (values, layer.values)):
                    kept = alone.shape[2]
                    torch.testing.assert_close(part[row][:, width - kept :], alone[0], rtol=1e-4, atol=1e-5)


def test_what_many_begin_with_is_run_once() -> None:
    model = tiny.shared("llama")
    tokens: list[int] = []

    def count(ids: torch.Tensor, _layer: str | None) -> torch.Tensor:
        tokens.append(ids.numel())
        return ids

    texts = [(*SHARED, subject, other) for subject in range(5, 15) for other in range(5, 15)]
    with Trace(model.embedding, edit_input=count, retain_output=False):
        keys_values(model, texts)
    assert sum(tokens) <= len(SHARED) + 10 + 2 * len(texts)
