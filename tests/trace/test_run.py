"""Tracing a prompt: options, policies and what the result says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rome_engine.errors import AmbiguousSubjectError, SubjectNotFoundError, TraceError
from rome_engine.trace import Trace, trace, trace_kinds, wavefront
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
    together = trace_kinds(model, PROMPT, SUBJECT, kinds=("hidden", "mlp"), noise=1.0, samples=2, window=2)
    alone = trace(model, PROMPT, SUBJECT, kind="mlp", noise=1.0, samples=2, window=2)
    np.testing.assert_array_equal(together[1].scores, alone.scores)
    assert [one.kind for one in together] == ["hidden", "mlp"]


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
    ],
)
def test_bad_input_is_one_clear_line(options: dict[str, object], error: type[Exception]) -> None:
    arguments = {"subject": SUBJECT, "noise": 1.0, **options}
    with pytest.raises(error) as caught:
        trace(tiny.shared("llama"), PROMPT, **arguments)  # type: ignore[arg-type]
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
    assert len(rows) == found.scores.size
    assert {row["role"] for row in rows} == {"before", "subject", "after"}


def test_where_the_fast_engine_cannot_run_the_reference_does_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny.shared("llama")
    slow = trace(model, PROMPT, SUBJECT, noise=1.0, samples=2, engine="reference")
    # A self-test that nothing passes stands for a model whose blocks cannot be replayed.
    monkeypatch.setattr(wavefront, "REPLAY_TOLERANCE", {torch.float32: -1.0})
    found = trace(model, PROMPT, SUBJECT, noise=1.0, samples=2, engine="fast")
    assert found.engine == "reference" and "reference engine" in caplog.text
    np.testing.assert_array_equal(found.scores, slow.scores)
