"""Tracing models that transformers splits: both engines, the screen, the lens and attribution as on one piece."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from accelerate.utils.offload import OffloadedWeightsLoader

from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import KINDS, Settings, trace_maps
from rome_engine.trace.attribution import attribute
from rome_engine.trace.lens import lens
from rome_engine.trace.plan import Direction
from rome_engine.trace.screen import screen
from tests import split
from tests.trace.examples import MIDDLE

Pair = tuple[LanguageModel, LanguageModel]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return split.loaded(request.param, tmp_path_factory.mktemp(request.param))


def settings(direction: str, engine: str, **given: Any) -> Settings:
    asked: dict[str, Any] = {"kinds": tuple(KINDS), "windows": (2,), "severed": ("", "mlp"), "samples": 2, **given}
    return Settings(direction=direction, engine=engine, **asked)


def assert_same_maps(model: LanguageModel, expected: LanguageModel, engine: str, asked: dict[str, Any]) -> None:
    """The maps of one model under an engine, in every metric, and those of the other under the fast one."""
    found = trace_maps(model, *MIDDLE, settings(engine=engine, **asked), foil=" Rome")
    wanted = trace_maps(expected, *MIDDLE, settings(engine="fast", **asked), foil=" Rome")
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.engine == engine and other.engine == "fast"  # nothing fell back
        assert (one.kind, one.severed, one.head) == (other.kind, other.severed, other.head)
        # Not flat: there is something to agree on. What is not asked for is NaN.
        assert np.nanmax(other.scores) - np.nanmin(other.scores) > 1e-3 * np.nanmax(other.scores)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5, atol=1e-6)
        for metric, values in other.others.items():
            np.testing.assert_allclose(one.others[metric].scores, values.scores, rtol=1e-5, atol=1e-5, err_msg=metric)
        assert one.provenance["weights"] == other.provenance["weights"]


@pytest.mark.parametrize("direction", get_args(Direction))
def test_the_fast_engine_is_as_on_one_piece(pair: Pair, direction: str) -> None:
    plain, parted = pair
    assert_same_maps(parted, plain, "fast", {"direction": direction})


@pytest.mark.parametrize("direction", get_args(Direction))
def test_the_reference_engine_is_as_on_one_piece(pair: Pair, direction: str) -> None:
    plain, parted = pair
    kinds = ("hidden", "mlp", "attn", "mid", "pre")
    few = {"direction": direction, "kinds": kinds, "positions": "last-subject", "severed": ("", "attn"), "samples": 1}
    assert_same_maps(parted, plain, "reference", few)


def test_the_fast_engine_reads_a_layer_once_a_walk(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls of a block there are: more maps make more calls, but hardly more reads."""
    _, parted = pair
    read, reads = OffloadedWeightsLoader.__getitem__, [0]

    def counted(self: OffloadedWeightsLoader, name: str) -> Any:
        reads[0] += 1
        return read(self, name)

    monkeypatch.setattr(OffloadedWeightsLoader, "__getitem__", counted)
    offloaded = sum(weight.device.type == "meta" for weight in parted.module.parameters())
    found = []
    for kinds in (("mlp",), ("mlp",), ("mlp", "attn", "hidden")):  # the first time some proofs are made besides
        reads[0] = 0
        # So many samples that a block is called for a cell or two at a time.
        trace_maps(parted, *MIDDLE, settings("restore", "fast", kinds=kinds, severed=("",), samples=50))
        found.append(reads[0])
    assert found[2] < found[1] + offloaded


def test_the_screen_takes_gradients_through_offloaded_blocks(pair: Pair) -> None:
    _, parted = pair
    asked = Settings(kinds=("hidden", "mlp", "attn", "head"), windows=(1,), samples=2)
    one, other = (
        screen(model, *MIDDLE, asked, foil=" Rome", metric="logit_difference", top=8, random=8) for model in pair
    )
    assert len(one.maps) == len(other.maps) > 3
    for wanted, found in zip(one.maps, other.maps, strict=True):
        assert np.abs(wanted.approximate).max() > 1e-3
        np.testing.assert_allclose(found.approximate, wanted.approximate, rtol=1e-4, atol=1e-6)
    assert all(weight.device.type == "meta" for weight in parted.blocks[1].parameters())


def test_the_lens_is_as_on_one_piece(pair: Pair) -> None:
    one, other = (lens(model, MIDDLE[0], answers=(" Paris",)) for model in pair)
    np.testing.assert_array_equal(other.top_ids, one.top_ids)
    np.testing.assert_allclose(other.entropy, one.entropy, rtol=1e-5)
    np.testing.assert_array_equal(other.answers[0].rank, one.answers[0].rank)


@pytest.mark.parametrize("heads", [False, True])
def test_attribution_is_as_on_one_piece(pair: Pair, heads: bool) -> None:
    one, other = (attribute(model, MIDDLE[0], foil=" Rome", heads=heads) for model in pair)
    wanted, found = (np.array([part.value for part in made.contributions]) for made in (one, other))
    assert np.abs(wanted).max() > 1e-2
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_attribution_through_offloaded_norms_after_attention(tmp_path_factory: pytest.TempPathFactory) -> None:
    plain, parted = split.loaded("gemma2", tmp_path_factory.mktemp("gemma2"))
    one, other = (attribute(model, MIDDLE[0], heads=True) for model in (plain, parted))
    wanted, found = (np.array([part.value for part in made.contributions]) for made in (one, other))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
