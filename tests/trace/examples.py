"""Prompts and baselines that the tests of tracing share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import reference, wavefront
from rome_engine.trace.baseline import Baseline, run_baseline
from rome_engine.trace.corrupt import Corruption, Drawn, Spread, draw
from rome_engine.trace.metrics import METRICS
from rome_engine.trace.plan import Cell, Direction, Plan, plan_map

MIDDLE = ("You can find the Colosseum in Rome. The Louvre is in", "The Louvre")
START = ("The Eiffel Tower is located in", "The Eiffel Tower")
END = ("To visit Paris, find the Louvre", "the Louvre")
ENGINES = {"fast": wavefront.run, "reference": reference.run}
RELATIVE = 1e-5


def baseline(
    model: LanguageModel,
    text: str,
    subject: str,
    *,
    samples: int = 3,
    corruption: str = "1.0",
    answer: tuple[int, ...] | None = None,
    foil: int | None = 7,
    heads: bool = True,
) -> Baseline:
    """A baseline under noise of a fixed level, heads and a foil included."""
    prompt = model.tokenize(text, subject)
    begin, end = prompt.subject_range or (0, 0)
    drawn = draw(
        Corruption.parse(corruption), Spread(model, ["Rome", "The Louvre"]), prompt.input_ids, end - begin, samples, 1
    )
    return run_baseline(model, prompt, drawn, answer=answer, foil=foil, heads=heads)


def swapped(model: LanguageModel, text: str, subject: str) -> Baseline:
    """A baseline whose single corrupted row has other tokens in the subject's place."""
    prompt = model.tokenize(text, subject)
    begin, end = prompt.subject_range or (0, 0)
    ids = [*prompt.input_ids]
    ids[begin:end] = [(token + 17) % 400 + 5 for token in ids[begin:end]]
    return run_baseline(model, prompt, Drawn((tuple(ids),), subject="another"), foil=7, heads=True)


def plan(runs: Baseline, kind: str, window: int = 2, head: int | None = None, **options: object) -> Plan:
    """The map of all positions of the prompt."""
    positions = range(len(runs.prompt.input_ids))
    head = 1 if kind == "head" and head is None else head
    return plan_map(kind, positions, runs.model.n_layers, window, head=head, **options)  # type: ignore[arg-type]


def measured(
    engine: str, runs: Baseline, cells: tuple[Cell, ...], direction: Direction = "restore"
) -> NDArray[np.float64]:
    """The mean metrics of each cell, (cells, metrics)."""
    found: NDArray[np.float64] = ENGINES[engine](runs.model, cells, runs, direction)
    assert found.shape == (len(cells), runs.samples, len(METRICS))
    return found.mean(1)


def scores(
    engine: str, runs: Baseline, kind: str, window: int = 2, direction: Direction = "restore"
) -> NDArray[np.float64]:
    """The map of probabilities, (tokens, layers)."""
    made = plan(runs, kind, window, direction=direction)
    table = measured(engine, runs, made.cells, direction)[:, 0]
    return table.reshape(len(runs.prompt.input_ids), runs.model.n_layers)


def assert_same(fast: NDArray[np.float64], slow: NDArray[np.float64], relative: float = RELATIVE) -> None:
    """Equal in every metric: relative to the entry, and to the metric's largest where entries are small.

    The divergence is a difference of numbers near 10 in float32: it is good to a few millionths of a nat.
    """
    fast, slow = fast.reshape(len(fast), -1), slow.reshape(len(slow), -1)
    assert slow.shape[1] <= len(METRICS)
    for column in range(slow.shape[1]):
        allowed = max(relative * float(np.abs(slow[:, column]).max()), 5e-6 if METRICS[column] == "kl" else 0)
        np.testing.assert_allclose(fast[:, column], slow[:, column], rtol=relative, atol=allowed)
