"""A Ray cluster of two workers on this machine, and what its workers do in tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from rome_engine.cluster import Cluster
from rome_engine.model.language_model import LanguageModel
from tests import tiny

CLUSTER = Cluster(2)
ROOT = Path(__file__).parent.parent


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """The cluster, for as long as this lasts: one thread each, and a cache in the folder for the workers."""
    import ray

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder))
            patch.setenv("PYTHONPATH", str(ROOT))
            patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
    finally:
        ray.shutdown()
        torch.set_num_threads(threads)


def model_folder(folder: Path) -> Path:
    """A tiny model on the disk, which workers can load."""
    tiny.model("llama").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def load(folder: Path) -> LanguageModel:
    """That model."""
    return LanguageModel.load(str(folder))


def die_once(flag: Path) -> None:
    """The end of the first process that comes here, as `kill -9` ends it."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
