"""Collecting keys: one pass equals many, equals brute force; the model is as it was before."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rome_engine.errors import StatisticsError
from rome_engine.model.language_model import LanguageModel
from rome_engine.stats import Corpus, Sampling, SecondMoment, collect
from rome_engine.stats.layer_keys import FIRST_TOKEN_OUTLIER
from tests import tiny
from tests.stats.texts import corpus

TOKENS, LENGTH = 1100, 32
FAMILIES = ("gpt2", "llama", "opt", "gemma2", "falcon")  # Conv1D, gated, flattened keys, sandwich norms, parallel


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    return corpus(tmp_path)


def moments(model: LanguageModel, text: Corpus, layers: tuple[int, ...], **options: Any) -> dict[int, SecondMoment]:
    return collect(model, text, layers, **{"tokens": TOKENS, "length": LENGTH, "batch_tokens": 200, **options})


def off(value: SecondMoment, reference: SecondMoment) -> float:
    return float((value.matrix() - reference.matrix()).norm() / reference.matrix().norm())


def brute_force(model: LanguageModel, text: Corpus, layer: int, skip_first: bool) -> SecondMoment:
    """One sequence at a time through the whole model, with a hook of torch's own."""
    moment = SecondMoment(model.architecture.d_mlp)
    for sequence in text.sequences(model.tokenizer, Sampling(TOKENS, LENGTH)):
        seen: list[Tensor] = []
        handle = model.down_projection(layer).register_forward_pre_hook(
            lambda _module, args, seen=seen: seen.append(args[0])
        )
        with torch.no_grad():
            model.module(input_ids=torch.tensor([sequence]), use_cache=False)
        handle.remove()
        keys = seen[0].reshape(len(sequence), -1)
        for position, token in enumerate(sequence):
            if (position > 0 or not skip_first) and (position == 0 or token != tiny.EOS):
                moment.update(keys[position])
    return moment


def hooks_of(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pass_equals_single_passes_and_brute_force(family: str, text: Corpus) -> None:
    model = tiny.shared(family)
    together = moments(model, text, (2, 0, 2))
    assert list(together) == [0, 2]
    for layer, moment in together.items():
        alone = moments(model, text, (layer,))[layer]
        assert torch.equal(alone.matrix(), moment.matrix()) and alone.provenance == moment.provenance
        assert moment.provenance is not None
        reference = brute_force(model, text, layer, moment.provenance.first_token_left_out)
        assert moment.count == reference.count
        assert off(moment, reference) < 1e-6
    assert off(together[0], together[2]) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_change_it_by_rounding_only(family: str, text: Corpus) -> None:
    model = tiny.shared(family)
    large = moments(model, text, (1,), batch_tokens=5000)[1]
    small = moments(model, text, (1,), batch_tokens=1)[1]
    assert large.provenance is not None and small.provenance is not None
    assert large.provenance.first_token_left_out == small.provenance.first_token_left_out
    assert large.count == small.count and off(small, large) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype: torch.dtype, text: Corpus) -> None:
    exact = moments(tiny.shared("llama"), text, (1,))[1]
    half = moments(tiny.language_model("llama", dtype=dtype), text, (1,))[1]
    assert half.matrix().dtype == torch.float64
    assert 0 < off(half, exact) < 0.05


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_nothing_runs_after_the_last_layer(family: str, text: Corpus) -> None:
    model = tiny.language_model(family)
    calls = [0] * tiny.LAYERS
    for layer, block in enumerate(model.blocks):

        def count(_module: nn.Module, _args: Any, layer: int = layer) -> None:
            calls[layer] += 1

        block.register_forward_pre_hook(count)
    moments(model, text, (2, 1))
    sequences = -(-TOKENS // LENGTH)
    passes = -(-(sequences - 1) // (200 // LENGTH)) + 1  # the last sequence is shorter and goes alone
    assert calls == [passes, passes, passes, 0]


class TestModelIsAsBefore:
    def check(self, model: LanguageModel, text: Corpus, error: type[BaseException] | None, **options: Any) -> None:
        weights, ids = model.weight_hash(), torch.arange(20)[None] + 3
        with torch.no_grad():
            before = model.module(input_ids=ids).logits
        hooks = hooks_of(model.module)
        if error is None:
            moments(model, text, (0, 2), **options)
        else:
            with pytest.raises(error):
                moments(model, text, (0, 2), **options)
        assert hooks_of(model.module) == hooks
        assert model.weight_hash() == weights
        with torch.no_grad():
            assert torch.equal(model.module(input_ids=ids).logits, before)

    @pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
    def test_after_success(self, family: str, text: Corpus) -> None:
        self.check(tiny.language_model(family), text, None)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_after_an_error_between_batches(self, error: type[BaseException], text: Corpus) -> None:
        def stop(_message: str, _share: float) -> None:
            raise error

        self.check(tiny.language_model("llama"), text, error, progress=stop)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_after_an_error_inside_a_forward(
        self, error: type[BaseException], text: Corpus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_moment: SecondMoment, _keys: Tensor) -> None:
            raise error

        monkeypatch.setattr(SecondMoment, "update", fail)
        self.check(tiny.language_model("opt"), text, error)

    def test_the_keys_pass_unchanged(self, text: Corpus) -> None:
        """A layer's keys do not depend on whether an earlier layer is watched too."""
        model = tiny.shared("gpt2")
        assert torch.equal(moments(model, text, (3,))[3].matrix(), moments(model, text, (0, 1, 3))[3].matrix())


class TestPositionZero:
    def scaled(self, factor: float) -> LanguageModel:
        """A Llama whose keys at position 0 are so many times as large in layer 1."""
        model = tiny.language_model("llama")

        def scale(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            keys = args[0].clone()
            keys[:, 0] *= factor
            return (keys,)

        # Registered first, so it runs in front of the collector's own hook.
        model.down_projection(1).register_forward_pre_hook(scale)
        return model

    @pytest.mark.parametrize(("factor", "left_out"), [(50.0, True), (0.01, True), (1.0, False)])
    def test_it_is_left_out_where_it_is_an_outlier(self, factor: float, left_out: bool, text: Corpus) -> None:
        made = moments(self.scaled(factor), text, (0, 1))
        first, about = made[0].provenance, made[1].provenance
        assert first is not None and about is not None
        assert about.first_token_left_out is left_out and not first.first_token_left_out
        sequences = -(-TOKENS // LENGTH)
        assert made[0].count - made[1].count == (sequences if left_out else 0)
        limits = (1 / FIRST_TOKEN_OUTLIER, FIRST_TOKEN_OUTLIER)
        assert left_out == (not limits[0] <= about.first_token_ratio <= limits[1])

    def test_what_is_left_out_has_no_effect(self, text: Corpus) -> None:
        made = [moments(self.scaled(factor), text, (1,))[1] for factor in (50.0, 5000.0, 0.001)]
        assert torch.equal(made[0].matrix(), made[1].matrix()) and torch.equal(made[0].matrix(), made[2].matrix())


def test_document_end_tokens_are_not_counted(text: Corpus) -> None:
    model = tiny.shared("llama")
    sequences = list(text.sequences(model.tokenizer, Sampling(TOKENS, LENGTH)))
    ends = sum(sequence[1:].count(tiny.EOS) for sequence in sequences)
    made = moments(model, text, (0,))[0]
    assert made.provenance is not None and not made.provenance.first_token_left_out
    assert ends > 5 and made.count == TOKENS - ends


class TestKey:
    def test_it_changes_with_everything_that_decides_the_numbers(self, tmp_path: Path, text: Corpus) -> None:
        model = tiny.language_model("llama")

        def key(of: LanguageModel = model, on: Corpus = text, layer: int = 0, **options: int) -> str:
            about = moments(of, on, (layer,), **{"tokens": 100, **options})[layer].provenance
            assert about is not None
            return about.key

        first = key()
        assert key() == first
        assert key(on=corpus(tmp_path, name="renamed.txt")) == first
        changed = [key(layer=1), key(tokens=101), key(length=31), key(seed=1), key(on=corpus(tmp_path, 119, "b.txt"))]
        changed.append(key(of=LanguageModel(model.module, tiny.tokenizer(adds_bos=True), "llama")))
        model.weight(3)[0, 0] += 1e-3
        changed.append(key())
        assert len({first, *changed}) == 8

    def test_names_and_versions_are_no_part_of_it(self, text: Corpus) -> None:
        about = moments(tiny.shared("llama"), text, (0,))[0].provenance
        assert about is not None
        assert replace(about, model="x", corpus_name="y", versions="z").key == about.key
        assert "torch" in about.versions and about.model == "llama" and about.corpus_name == "text"


class TestBadInput:
    def test_layers(self, text: Corpus) -> None:
        for layers in ((-1,), (0, tiny.LAYERS)):
            with pytest.raises(StatisticsError, match="its layers are 0 to 3"):
                moments(tiny.shared("llama"), text, layers)
        with pytest.raises(StatisticsError, match="no layer was asked for"):
            moments(tiny.shared("llama"), text, ())

    def test_length_beyond_the_context(self, text: Corpus) -> None:
        with pytest.raises(StatisticsError, match=f"at most {tiny.CONTEXT}"):
            moments(tiny.shared("llama"), text, (0,), length=tiny.CONTEXT + 1)

    def test_the_default_length_fits_the_context(self, text: Corpus) -> None:
        about = moments(tiny.shared("llama"), text, (0,), length=None)[0].provenance
        assert about is not None and about.length == tiny.CONTEXT

    def test_keys_that_are_not_finite(self, text: Corpus) -> None:
        model = tiny.language_model("llama")
        model.module.get_input_embeddings().weight.data[5:] = float("nan")
        with pytest.raises(StatisticsError, match="layer 1 are not finite"):
            moments(model, text, (1,))

    def test_a_corpus_smaller_than_the_budget_is_said(self, text: Corpus, caplog: pytest.LogCaptureFixture) -> None:
        shares: list[float] = []
        with caplog.at_level(logging.WARNING):
            moments(
                tiny.shared("llama"), text, (0,), tokens=10**6, progress=lambda _message, share: shares.append(share)
            )
        assert "not the 1000000 asked for" in caplog.text
        assert shares == sorted(shares) and shares[-1] == 1.0
