"""Any task of the lm-evaluation-harness on a model as it is, through the harness's own API.

Source: Gao et al., "The Language Model Evaluation Harness" (github.com/EleutherAI/lm-evaluation-harness).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rome_engine.errors import BenchError
from rome_engine.model.language_model import LanguageModel


def evaluate(
    model: LanguageModel,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    include_path: str | Path | None = None,
    batch_size: int = 8,
) -> dict[str, dict[str, float]]:
    """The figures of each task on the model as it is now, by the harness's own names ("acc,none"); an edit is the
    caller's.

    limit: examples of each task (None: all). include_path: a folder of task files besides the harness's own. The model,
    its tokenizer and the random numbers of the process are afterwards what they were.
    Raises BenchError where the harness is not installed, for a task that it does not know or cannot run (most fetch
    their data from a network), and for a limit under 1.
    """
    if not tasks or (limit is not None and limit < 1):
        raise BenchError("there is nothing to evaluate: name at least one task, and a limit of at least 1 example")
    try:
        with _same_random_numbers():
            found = _results(model, tasks, limit, include_path, batch_size)
    except (BenchError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of whichever kind: tasks are code of others, with packages and data of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BenchError(
            f"lm-evaluation-harness cannot run {', '.join(tasks)}: {reason[:300]} (check the task's data and packages, "
            "and the network where it fetches them)"
        ) from error
    return {task: _numbers(figures) for task, figures in found.items()}


def check_tasks(tasks: Sequence[str], include_path: str | Path | None = None) -> Any:
    """The harness's list of tasks. Raises BenchError where it is not installed or does not know one of these."""
    _, _, manager = _harness()
    if include_path is not None and not Path(include_path).is_dir():
        raise BenchError(f"there is no folder {include_path} of tasks: check the path")
    known = manager(include_path=None if include_path is None else str(include_path))
    if unknown := [task for task in tasks if task not in known.all_tasks]:
        raise BenchError(
            f"lm-evaluation-harness has no task {', '.join(unknown)}: `lm-eval ls tasks` names them; a folder of your "
            "own ones can be given beside them"
        )
    return known


def _results(
    model: LanguageModel, tasks: Sequence[str], limit: int | None, include_path: str | Path | None, batch_size: int
) -> dict[str, dict[str, Any]]:
    """What the harness finds, by task."""
    simple_evaluate, wrapper, _ = _harness()
    known = check_tasks(tasks, include_path)
    tokenizer = copy.deepcopy(model.tokenizer)  # it is given a padding token
    wrapped = wrapper(pretrained=model.module, tokenizer=tokenizer, batch_size=batch_size)
    found: dict[str, dict[str, Any]] = simple_evaluate(
        wrapped, tasks=list(tasks), limit=limit, task_manager=known, bootstrap_iters=1000, log_samples=False
    )["results"]
    return found


def _harness() -> tuple[Any, Any, Any]:
    """What is used of the harness; optional, and only those who evaluate pay for it. Raises BenchError."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise BenchError("lm-evaluation-harness is not installed: pip install 'rome-engine[lm-eval]'") from error
    return simple_evaluate, HFLM, TaskManager


def _numbers(figures: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in figures.items()
        if isinstance(value, int | float | np.number) and not isinstance(value, bool)
    }


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """The harness seeds what the whole process shares."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
