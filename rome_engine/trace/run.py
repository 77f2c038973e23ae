"""Tracing one prompt: corruption, plan, engine, result."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rome_engine.errors import NotReplayableError, TraceError
from rome_engine.model.language_model import LanguageModel
from rome_engine.model.tokens import BosPolicy, Prompt
from rome_engine.trace import reference, wavefront
from rome_engine.trace.baseline import Baseline, run_baseline
from rome_engine.trace.corrupt import Noise, embedding_std, gaussian
from rome_engine.trace.plan import Plan, Progress, plan_map
from rome_engine.trace.result import Trace
from rome_engine.trace.subjects import default_subjects
from rome_engine.versions import versions

log = logging.getLogger(__name__)

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
    if preset not in (None, "rome"):
        raise TraceError(f"there is no preset {preset!r}: the only one is rome")
    if preset == "rome" and (seed != 1 or bos == "always"):
        raise TraceError("the preset rome has seed 1 and adds no document-start token: leave seed and bos out")
    if engine not in ENGINES:
        raise TraceError(f"there is no engine {engine!r}: choose {', '.join(ENGINES)}")
    if samples < 1:
        raise TraceError(f"a trace needs at least one corrupted sample, not {samples}")
    began = time.perf_counter()
    tokens = model.tokenize(prompt, subject, "never" if preset == "rome" else bos)
    plans = [plan_map(kind, len(tokens.input_ids), model.n_layers, window) for kind in kinds]
    sigma, measured = _sigma(model, noise, subjects)
    baseline = _baseline(model, tokens, samples, sigma, seed)
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
        **measured,
        "input_ids": list(tokens.input_ids),
        "answer_id": baseline.answer_id,
        "metric": "probability of the answer at the last position, mean over samples",
    }
    shared = time.perf_counter() - began
    traces: list[Trace] = []
    total, done = sum(len(plan.cells) for plan in plans), 0
    for plan in plans:
        began = time.perf_counter()

        def report(cells: int, _of: int, before: int = done) -> None:
            if progress is not None:
                progress(before + cells, total)

        scores, used = _scores(model, plan, baseline, engine, report)
        done += len(plan.cells)
        traces.append(
            Trace(
                model=model.name,
                prompt=tokens.text,
                subject=subject,
                tokens=tokens.tokens,
                subject_range=baseline.subject,
                answer=model.text([baseline.answer_id]),
                high=baseline.high,
                low=baseline.low,
                kind=plan.kind,
                window=plan.window,
                noise_sigma=sigma,
                samples=samples,
                seed=seed,
                scores=scores,
                seconds=shared + time.perf_counter() - began,
                engine=used,
                provenance=provenance,
            )
        )
    return traces


def _sigma(model: LanguageModel, noise: str | float, subjects: Sequence[str] | None) -> tuple[float, dict[str, Any]]:
    """σ, and how it was come by."""
    level = Noise.parse(noise)
    if level.multiple is None:
        return float(level.sigma or 0.0), {"embedding_std": None, "embedding_std_subjects": None}
    names = default_subjects() if subjects is None else subjects
    deviation = embedding_std(model, names)
    return level.multiple * deviation, {"embedding_std": deviation, "embedding_std_subjects": len(names)}


def _baseline(model: LanguageModel, tokens: Prompt, samples: int, sigma: float, seed: int) -> Baseline:
    embedding: Any = model.embedding
    begin, end = tokens.subject_range or (0, 0)
    noise = gaussian(samples, end - begin, int(embedding.weight.shape[-1]), sigma, seed)
    return run_baseline(model, tokens, noise, sigma)


def _scores(
    model: LanguageModel, plan: Plan, baseline: Baseline, engine: str, progress: Progress
) -> tuple[NDArray[np.float64], str]:
    """The map, and the engine that made it: where the fast one's self-tests fail, the reference takes over."""
    try:
        scores = ENGINES[engine](model, plan.cells, baseline, progress)
    except NotReplayableError as error:
        log.warning("the fast engine cannot run this model (%s): tracing with the reference engine", error)
        engine = "reference"
        scores = ENGINES[engine](model, plan.cells, baseline, progress)
    return scores.reshape(plan.tokens, plan.layers), engine
