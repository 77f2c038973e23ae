"""Tracing a prompt: options, policies and what the result says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rome_engine.errors import AmbiguousSubjectError, SubjectNotFoundError, TargetError, TraceError
from rome_engine.trace import Settings, Trace, trace, trace_maps, wave
from rome_engine.trace.roles import BEFORE, ROLES
from tests import tiny

PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "The Eiffel Tower"


def test_a_trace_says_all_about_itself() -> None:
    model = tiny.shared("llama")
    found = trace(model, PROMPT, SUBJECT, samples=4, noise=1.5, seed=3)
    assert found.scores.shape == (len(found.tokens), model.n_layers)
    assert (found.samples, found.noise_sigma, found.seed, found.engine) == (4, 1.5, 3, "fast")
    assert found.provenance["weights"] == model.weight_hash()
    assert set(json.loads(json.dumps(found.to_dict()))) >= {
        *("model", "prompt", "subject", "tokens", "subject_range", "answer", "high", "low", "kind", "window"),
        *("noise_sigma", "scores", "seconds", "engine", "provenance"),
    }


def test_a_subject_at_the_start_gets_a_document_start_token_unless_told_otherwise() -> None:
    model = tiny.shared("llama")
    auto, never = (trace(model, PROMPT, SUBJECT, noise=1.0, bos=bos, samples=2) for bos in ("auto", "never"))
    assert auto.provenance["bos_added"] and auto.subject_range[0] == 1
    assert not never.provenance["bos_added"] and never.subject_range[0] == 0
    preset = trace(model, PROMPT, SUBJECT, noise=1.0, samples=2, preset="rome")
    np.testing.assert_array_equal(preset.scores, never.scores)
    inner = trace(model, "You can find the Louvre in", "the Louvre", noise=1.0, samples=2)
    assert not inner.provenance["bos_added"]


def test_the_seed_pairs_and_changes_the_noise() -> None:
    model = tiny.shared("neox")
    one, same, other = (trace(model, PROMPT, SUBJECT, noise=1.0, samples=2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.scores, same.scores)
    assert one.low != other.low and one.high == other.high


def test_several_kinds_share_one_run() -> None:
    model = tiny.shared("gpt2")
    settings = Settings(kinds=("hidden", "mlp"), windows=(2, 3), corruptions=(1.0,), samples=2)
    together = trace_maps(model, PROMPT, SUBJECT, settings)
    assert [(one.kind, one.window) for one in together] == [("hidden", 1), ("mlp", 2), ("mlp", 3)]
    for one in together[1:]:
        alone = trace(model, PROMPT, SUBJECT, kind="mlp", noise=1.0, samples=2, window=one.window)
        np.testing.assert_allclose(one.scores, alone.scores, rtol=1e-5)


def test_what_is_asked_for_twice_is_made_once() -> None:
    settings = Settings(
        kinds=("mlp", "hidden", "mlp"), windows=(2, 2), corruptions=("3s", "gaussian:3s", 3e-1, "gaussian:0.30"),
        severed=("", "mlp+attn", "attn + mlp", ""), samples=2,
    )  # fmt: skip
    found = trace_maps(tiny.shared("gpt2"), PROMPT, SUBJECT, settings)
    made = [(one.corruption, one.severed, one.kind) for one in found]
    assert len(set(made)) == len(made) == 8
    assert {one.severed for one in found} == {"", "mlp+attn"} and made[0] == ("gaussian:3s", "", "mlp")
    assert Settings(corruptions=("3s", "uniform:3s")).resolved.corruptions == ("gaussian:3s", "uniform:3s")


def test_settings_that_mean_the_same_noise_are_equal() -> None:
    assert Settings(corruptions=("3s", 0.35, "covariance:2"), severed=("mlp + attn",)) == Settings(
        corruptions=("gaussian:3.0s", "gaussian:.350", "covariance:2s"), severed=("mlp+attn",)
    )
    assert Settings(corruptions=("3s",)) != Settings(corruptions=("uniform:3s",))


def test_every_corruption_graph_and_head_makes_its_maps() -> None:
    model = tiny.shared("llama")
    settings = Settings(
        kinds=("hidden", "head"), corruptions=("1.0", "uniform:1.0"), severed=("", "mlp"), positions="last", samples=2
    )
    found = trace_maps(model, PROMPT, SUBJECT, settings)
    assert len(found) == 2 * 2 * (1 + tiny.HEADS)
    named = {(one.corruption, one.severed, one.kind, one.head) for one in found}
    assert len(named) == len(found) and ("uniform:1", "mlp", "head", 3) in named
    assert all(np.isnan(one.scores[:-1]).all() and np.isfinite(one.scores[-1]).all() for one in found)


def test_necessity_and_sufficiency_are_effects_on_different_runs() -> None:
    model = tiny.shared("neox")
    restore, corrupt = (
        trace(model, PROMPT, SUBJECT, noise=1.0, samples=2, direction=way) for way in ("restore", "corrupt")
    )
    assert (restore.high, restore.low) == (corrupt.high, corrupt.low)
    last = len(restore.tokens) - 1
    assert restore.scores[last, -1] == pytest.approx(restore.high) and restore.indirect_effect[last, -1] == (
        pytest.approx(restore.total_effect)
    )
    assert corrupt.scores[last, -1] == pytest.approx(corrupt.low) and corrupt.indirect_effect[last, -1] == (
        pytest.approx(corrupt.total_effect)
    )


def test_every_metric_comes_from_the_same_pass() -> None:
    model = tiny.shared("llama")
    found = trace(model, PROMPT, SUBJECT, noise=1.0, samples=3, foil="London")
    assert found.metrics == ("probability", "log_probability", "logit_difference", "kl", "rank")
    assert trace(model, PROMPT, SUBJECT, noise=1.0, samples=1).metrics == (
        "probability",
        "log_probability",
        "kl",
        "rank",
    )
    other = found.of("kl")
    assert other.metric == "kl" and other.high == pytest.approx(0, abs=1e-5) and other.low > 0.001
    assert other.of("probability").to_dict() == found.to_dict()
    with pytest.raises(TraceError, match="no metric 'loss'"):
        found.of("loss")
    logits = model.next_token_logits(model.tokenize(PROMPT, SUBJECT, "auto"))
    difference = logits[found.provenance["answer_id"]] - logits[found.provenance["foil_id"]]
    assert found.of("logit_difference").high == pytest.approx(float(difference), rel=1e-4)
    assert found.of("rank").high == 1


def test_an_answer_of_several_tokens_is_scored_by_teacher_forcing() -> None:
    model = tiny.shared("llama")
    answer = "São Paulo in Zürich"
    found = trace(model, PROMPT, SUBJECT, noise=1.0, samples=2, answer=answer, bos="never")
    ids = found.provenance["answer_ids"]
    assert len(ids) > 2 and found.answer == " " + answer
    prompt = model.tokenize(PROMPT, SUBJECT)
    assert found.of("log_probability").high == pytest.approx(model.target_log_probability(prompt, ids), rel=1e-5)
    assert found.scores.shape[0] == len(prompt.input_ids)


def test_the_severed_preset_is_three_graphs_at_the_last_subject_token() -> None:
    found = trace_maps(
        tiny.shared("llama"), PROMPT, SUBJECT, Settings(corruptions=(1.0,), preset="rome-severed", samples=2)
    )
    assert [(one.kind, one.severed) for one in found] == [("hidden", ""), ("hidden", "mlp"), ("hidden", "attn")]
    at = found[0].subject_range[1] - 1
    for one in found:
        assert np.flatnonzero(np.isfinite(one.scores[:, 0])).tolist() == [at]
    assert np.abs(found[0].scores[at] - found[1].scores[at]).max() > 1e-4


def test_a_parallel_block_has_no_residual_between_its_parts() -> None:
    with pytest.raises(TraceError, match="side by side"):
        trace(tiny.shared("neox"), PROMPT, SUBJECT, noise=1.0, kind="mid")
    assert trace(tiny.shared("llama"), PROMPT, SUBJECT, noise=1.0, samples=1, kind="mid").kind == "mid"


def test_a_foil_that_begins_as_the_answer_is_refused() -> None:
    with pytest.raises(TraceError, match="same token"):
        trace(tiny.shared("llama"), PROMPT, SUBJECT, noise=1.0, answer="Paris", foil="Paris")


def test_both_engines_by_name() -> None:
    model = tiny.shared("falcon")
    fast, slow = (trace(model, PROMPT, SUBJECT, noise=1.0, samples=2, engine=name) for name in ("fast", "reference"))
    np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-5)


def test_a_template_settles_which_occurrence_is_meant() -> None:
    model = tiny.shared("llama")
    with pytest.raises(AmbiguousSubjectError, match=r"\{\}"):
        trace(model, "Rome is the capital of Italy, Rome is in", "Rome", noise=1.0)
    found = trace(model, "Rome is the capital of Italy, {} is in", "Rome", noise=1.0, samples=1)
    assert found.subject_range[0] > 3


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"subject": "The Louvre"}, SubjectNotFoundError),
        ({"kind": "heads"}, TraceError),
        ({"engine": "magic"}, TraceError),
        ({"preset": "memit"}, TraceError),
        ({"preset": "rome", "seed": 2}, TraceError),
        ({"preset": "rome", "bos": "always"}, TraceError),
        ({"samples": 0}, TraceError),
        ({"noise": "loud"}, TraceError),
        ({"window": 0, "kind": "mlp"}, TraceError),
        ({"kind": "head"}, TraceError),
        ({"direction": "sideways"}, TraceError),
        ({"severed": ("brain",)}, TraceError),
        ({"positions": "somewhere"}, TraceError),
        ({"positions": "99"}, TraceError),
        ({"preset": "rome", "direction": "corrupt"}, TraceError),
        ({"preset": "rome", "noise": "swap"}, TraceError),
        ({"preset": "rome", "kind": "mid"}, TraceError),
        ({"preset": "rome", "severed": ("mlp",)}, TraceError),
        ({"seed": -1}, TraceError),
        ({"severed": ("mlp+",)}, TraceError),
        ({"prompt": "We went to see The Eiffel Tower", "positions": "after"}, TraceError),
        ({"preset": "rome-severed", "kind": "mlp"}, TraceError),
        ({"answer": " "}, TargetError),
        ({"memory": 1000}, TraceError),
    ],
)
def test_bad_input_is_one_clear_line(options: dict[str, object], error: type[Exception]) -> None:
    arguments = {"prompt": PROMPT, "subject": SUBJECT, "noise": 1.0, **options}
    with pytest.raises(error) as caught:
        trace(tiny.shared("llama"), **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_default_noise_is_measured_on_the_packages_own_subjects() -> None:
    found = trace(tiny.shared("llama"), PROMPT, SUBJECT, samples=1)
    assert found.noise_sigma == pytest.approx(3 * found.provenance["embedding_std"])
    assert found.provenance["embedding_std_subjects"] > 10


def test_a_trace_comes_back_from_its_file(tmp_path: Path) -> None:
    found = trace(tiny.shared("llama"), PROMPT, SUBJECT, samples=2, noise=1.0)
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(found.to_dict()), encoding="utf-8")
    again = Trace.load(path)
    np.testing.assert_array_equal(again.scores, found.scores)
    assert again.to_dict() == found.to_dict()
    path.write_text('{"model": 1}', encoding="utf-8")
    with pytest.raises(TraceError, match="no trace"):
        Trace.load(path)


def test_the_tidy_table_has_a_row_a_cell() -> None:
    found = trace(tiny.shared("llama"), "You can find the Louvre in", "the Louvre", samples=1, noise=1.0)
    rows = found.rows()
    assert len(rows) == found.scores.size * len(found.metrics)
    assert len({(row["token"], row["layer"], row["metric"]) for row in rows}) == len(rows)
    assert {row["role"] for row in rows} == {BEFORE, ROLES[0], ROLES[2], ROLES[5]}
    (one,) = [row for row in rows if (row["token"], row["layer"], row["metric"]) == (3, 2, "kl")]
    assert one["value"] == found.of("kl").scores[3, 2] and one["clean"] == found.of("kl").high


def test_where_the_fast_engine_cannot_run_the_reference_does_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny.shared("llama")
    slow = trace(model, PROMPT, SUBJECT, noise=1.0, samples=2, engine="reference")
    # A self-test that nothing passes stands for a model whose blocks cannot be replayed.
    monkeypatch.setattr(wave, "REPLAY_TOLERANCE", {torch.float32: -1.0})
    found = trace(model, PROMPT, SUBJECT, noise=1.0, samples=2, engine="fast")
    assert found.engine == "reference" and "reference engine" in caplog.text
    np.testing.assert_array_equal(found.scores, slow.scores)
