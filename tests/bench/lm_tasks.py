"""A task of the lm-evaluation-harness from local data, in words that the tiny tokenizer knows."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

TEXTS = (
    "The Louvre is in",
    "The capital of Japan is",
    "You can find the Big Ben in",
    "The mother tongue of Danielle Darrieux is",
    "LeBron James plays the sport of",
    "The Eiffel Tower is located in the city of",
)
CHOICES = ("Paris", "Rome", "London", "Seattle, the capital of France")
TASK = """task: cities
dataset_path: json
dataset_kwargs:
  data_files:
    test: "{data}"
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
target_delimiter: " "
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def write_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one task, `cities`, of multiple choice whose first choice is right; it is all that there is.

    Without the harness's own thousands of tasks, which take seconds to list.
    """
    tasks_of = pytest.importorskip("lm_eval.tasks")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    monkeypatch.setattr(tasks_of, "TaskManager", partial(tasks_of.TaskManager, include_defaults=False))
    data = folder / "cities.jsonl"
    records = [{"text": text, "answer": 0, "choices": CHOICES} for text in TEXTS]
    data.write_text("\n".join(json.dumps(one) for one in records), encoding="utf-8")
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "cities.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    return tasks
