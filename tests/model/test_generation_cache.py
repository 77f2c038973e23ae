"""The cache of generation holds what transformers' own holds, and takes its memory once."""

from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from rome_engine.model.generation_cache import generation_cache


def test_holds_what_the_plain_cache_holds_without_copying_it() -> None:
    torch.manual_seed(0)
    plain, cache = DynamicCache(), generation_cache(2, 7)
    assert cache.get_seq_length() == 0
    places = set()
    for tokens in (4, 1, 2):
        for layer in (0, 1):
            states = [torch.randn(3, 2, tokens, 5) for _ in range(2)]
            expected, found = plain.update(*states, layer), cache.update(*states, layer)
            assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
            places.update((layer, part, kept.data_ptr()) for part, kept in enumerate(found))
        assert cache.get_seq_length() == plain.get_seq_length()
        assert cache.get_mask_sizes(1, 0) == plain.get_mask_sizes(1, 0)
    assert len(places) == 4  # two layers' keys and values never moved
    with pytest.raises(RuntimeError):
        cache.update(*[torch.randn(3, 2, 1, 5) for _ in range(2)], 0)
