"""Tracing one prompt: corruption, plan, engine, result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rome_engine.errors import TraceError
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import BosPolicy
from rome_engine.trace import reference, wavefront
from rome_engine.trace.baseline import run_baseline
from rome_engine.trace.corrupt import Noise, embedding_std, gaussian
from rome_engine.trace.plan import plan_map
from rome_engine.trace.result import Trace
from rome_engine.trace.subjects import default_subjects
from rome_engine.versions import versions

Progress = Callable[[int, int], None]

ENGINES = {"fast": wavefront.run, "reference": reference.run}


def trace(
    model: LanguageModel,
    prompt: str,
    subject: str,
    *,
    kind: str = "hidden",
    window: int = 10,
    samples: int = 10,
    noise: str | float = "3s",
    subjects: Sequence[str] | None = None,
    seed: int = 1,
    bos: BosPolicy = "auto",
    preset: str | None = None,
    engine: str = "fast",
    progress: Progress | None = None,
) -> Trace:
    """Causal trace of one prompt: which restored states bring the answer back (Meng et al. 2022, section 2.1).

    prompt: plain text holding the subject once, or a template with `{}` in its place. kind: "hidden" restores a
    block's output, "mlp" and "attn" that sublayer's output in `window` layers around each layer. samples: corrupted
    rows. noise: "3s" is three standard deviations of the embeddings of `subjects` (by default a list that is part of
    the package), a number is σ itself. seed: of numpy's RandomState. bos: see `tokens.tokenize`. preset "rome": the
    original procedure: seed 1, no document-start token added. engine: "fast" (exact shortcuts) or "reference" (one
    forward pass a cell). progress(done, total) is called with numbers of cells.

    Raises PromptError and its kinds, TraceError.
    """
    return trace_kinds(
        model,
        prompt,
        subject,
        kinds=(kind,),
        window=window,
        samples=samples,
        noise=noise,
        subjects=subjects,
        seed=seed,
        bos=bos,
        preset=preset,
        engine=engine,
        progress=progress,
    )[0]


def trace_kinds(
    model: LanguageModel,
    prompt: str,
    subject: str,
    *,
    kinds: Sequence[str],
    window: int = 10,
    samples: int = 10,
    noise: str | float = "3s",
    subjects: Sequence[str] | None = None,
    seed: int = 1,
    bos: BosPolicy = "auto",
    preset: str | None = None,
    engine: str = "fast",
    progress: Progress | None = None,
) -> list[Trace]:
    """Several maps of one prompt from the same clean and corrupted run; see `trace`."""
    if preset == "rome":
        seed, bos = 1, "never"
    elif preset is not None:
        raise TraceError(f"there is no preset {preset!r}: the only one is rome")
    if engine not in ENGINES:
        raise TraceError(f"there is no engine {engine!r}: choose {', '.join(ENGINES)}")
    if samples < 1:
        raise TraceError(f"a trace needs at least one corrupted sample, not {samples}")
    began = time.perf_counter()
    tokens = model.tokenize(prompt, subject, bos)
    assert tokens.subject_range is not None
    begin, end = tokens.subject_range
    plans = [plan_map(kind, len(tokens.input_ids), model.n_layers, window) for kind in kinds]

    level = Noise.parse(noise)
    deviation = None
    if level.sigma is None:
        assert level.multiple is not None
        names = default_subjects() if subjects is None else subjects
        deviation = embedding_std(model, names)
        sigma = level.multiple * deviation
    else:
        sigma = level.sigma
    width = _embedding_width(model)
    baseline = run_baseline(model, tokens, gaussian(samples, end - begin, width, sigma, seed), sigma)
    shared = time.perf_counter() - began

    provenance = {
        **versions(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "weights": model.weight_hash(),
        "preset": preset,
        "bos": bos,
        "bos_added": tokens.bos_added,
        "corruption": "gaussian noise added to the token embedding's output",
        "noise": str(noise),
        "embedding_std": deviation,
        "embedding_std_subjects": None if deviation is None else len(names),
        "input_ids": list(tokens.input_ids),
        "answer_id": baseline.answer_id,
        "metric": "probability of the answer at the last position, mean over samples",
    }
    traces, total, done = [], sum(len(plan.cells) for plan in plans), 0
    for plan in plans:
        began = time.perf_counter()

        def report(cells: int, _of: int, before: int = done) -> None:
            if progress is not None:
                progress(before + cells, total)

        scores = ENGINES[engine](model, plan.cells, baseline, report)
        done += len(plan.cells)
        traces.append(
            Trace(
                model=model.name,
                prompt=tokens.text,
                subject=subject,
                tokens=tokens.tokens,
                subject_range=(begin, end),
                answer=model.text([baseline.answer_id]),
                high=baseline.high,
                low=baseline.low,
                kind=plan.kind,
                window=plan.window,
                noise_sigma=sigma,
                samples=samples,
                seed=seed,
                scores=scores.reshape(plan.tokens, plan.layers),
                seconds=shared + time.perf_counter() - began,
                engine=engine,
                provenance=provenance,
            )
        )
    return traces


def _embedding_width(model: LanguageModel) -> int:
    embedding: Any = model.embedding
    return int(embedding.weight.shape[-1])
