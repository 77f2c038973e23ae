"""A memory budget is kept: the peak of a process of its own, measured by the kernel, beyond what was there before."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers as hf

from rome_engine.errors import TraceError
from rome_engine.model.language_model import LanguageModel
from rome_engine.trace import wavefront
from rome_engine.trace.baseline import Baseline
from rome_engine.trace.budget import DEFAULT
from rome_engine.trace.plan import Cell
from tests import tiny
from tests.trace.examples import baseline, plan

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
MIB = 1 << 20
BUDGETS = ("least", "16", "32", "64", "default")
"""In MiB; those to 64 bind: the states of all cells together are larger."""

SLACK = 12 * MIB
"""What the allocator keeps between blocks that are freed, and the lists of cells; a tenth of the budget besides."""


def example(vocab: int = 8000) -> tuple[Baseline, list[Cell]]:
    """A narrow model and a long prompt: much state for little arithmetic."""
    shape = {"hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = hf.LlamaConfig(**shape, num_hidden_layers=4, vocab_size=vocab)
    model = LanguageModel(tiny.from_config(config), tiny.tokenizer(), "example")
    text = "The Colosseum " + "is in Rome, the capital of Italy. The Louvre is in Paris. " * 3 + "It is in the city of"
    runs = baseline(model, text, "Colosseum", samples=10, heads=False)
    return runs, [cell for kind in ("hidden", "mlp", "attn") for cell in plan(runs, kind).cells]


def status(field: str) -> int:
    """Bytes that the kernel reports of this process: VmRSS now, or VmHWM, the most since the last reset."""
    found = re.search(rf"^{field}:\s*(\d+) kB$", STATUS.read_text(), flags=re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def peak_of(runs: Baseline, cells: list[Cell], memory: int | None) -> tuple[int, list[list[float]]]:
    """How far the resident memory rose above what was there before, and each cell's and sample's probability."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # what is free already would hide what is taken
        trim(0)
    RESET.write_text("5")
    before = status("VmRSS")
    found = wavefront.run(runs.model, cells, runs, "restore", None, memory)
    return status("VmHWM") - before, found[:, :, 0].tolist()


def warm(runs: Baseline, cells: list[Cell]) -> None:
    """What a process does once: code that is loaded, buffers of the libraries."""
    wavefront.run(runs.model, cells[-24:], runs, "restore", None, 16 * MIB)


def child() -> None:
    """Print what each budget took and gave, each in a fork: what one run has freed would hide what the next takes."""
    runs, cells = example()
    warm(runs, cells)
    for memory in BUDGETS:
        if os.fork() == 0:
            warm(runs, cells)  # a fork maps the libraries anew
            allowed = {"default": None, "least": least(runs, cells)}.get(memory, 0)
            peak, found = peak_of(runs, cells, int(memory) * MIB if allowed == 0 else allowed)
            print(json.dumps({"memory": memory, "peak": peak, "least": least(runs, cells), "found": found}), flush=True)
            os._exit(0)
        assert os.wait()[1] == 0


def least(runs: Baseline, cells: list[Cell]) -> int:
    """The bytes that are named where there are too few."""
    with pytest.raises(TraceError, match="allow at least") as refusal:
        wavefront.run(runs.model, cells, runs, "restore", None, 1000)
    named = re.search(r"at least (\d+) MiB", str(refusal.value))
    assert named is not None
    return int(named[1]) * MIB


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Any]]:
    """What the second process told of each budget."""
    if not (RESET.exists() and STATUS.exists()):
        pytest.skip("the peak of the memory is read from /proc, which only Linux has")
    run = subprocess.run(
        [sys.executable, "-c", "from tests.trace.test_memory import child; child()"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return {told["memory"]: told for told in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("memory", BUDGETS)
def test_a_budget_is_kept(measured: dict[str, dict[str, Any]], memory: str) -> None:
    """Also the least that is named where there is too little: it works, and is kept."""
    told = measured[memory]
    allowed = {"least": told["least"], "default": DEFAULT}.get(memory) or int(memory) * MIB
    assert told["peak"] <= 1.1 * allowed + SLACK


def test_more_memory_is_used_where_it_is_allowed(measured: dict[str, dict[str, Any]]) -> None:
    """Else a budget that is kept would say nothing: all that is asked for would be little."""
    little, default = measured["16"]["peak"], measured["default"]["peak"]
    assert default > 1.1 * 32 * MIB + SLACK > little  # the default would fail the test of a small budget
    assert default > 2 * little


def test_a_budget_changes_no_number(measured: dict[str, dict[str, Any]]) -> None:
    expected = np.array(measured["default"]["found"])
    assert np.ptp(expected) > 1e-3 * expected.max()
    for told in measured.values():
        np.testing.assert_allclose(told["found"], expected, rtol=1e-4, atol=1e-6 * expected.max())
