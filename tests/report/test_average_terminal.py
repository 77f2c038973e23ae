"""The terminal's summary of averages."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from rome_engine.report.average_terminal import average_text
from rome_engine.trace.average import Average, Left
from tests.report.averages import build_average, build_map, head_maps


def drawn(average: Average, width: int = 100) -> str:
    file = StringIO()
    Console(file=file, width=width, legacy_windows=False).print(average_text(average))
    return file.getvalue()


def test_counts_totals_maps_and_strongest_cells() -> None:
    text = drawn(build_average())
    flat = " ".join(text.split())
    for words in (
        "Traced: 22 of 60 facts", "35 answered otherwise, 1 malformed, 2 failed", "2 of the traced",
        "n = 20 of 60 facts · total effect +0.500 [+0.400, +0.600]", "Restoring the MLP output in windows of 3 layers",
        "“last subject token” layer 1: 0.300 [0.250, 0.350]", "bootstrapped over facts (1000 resamples)",
    ):  # fmt: skip
        assert words in flat, words
    row = next(line for line in text.splitlines() if line.strip().startswith("last subject token"))
    assert row.split()[-1] == "░░░███▓▓▓░░░" + "·" * 12


@pytest.mark.parametrize("width", [30, 60, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(cell_len, drawn(build_average(), width).splitlines())) <= width


def test_failures_are_counted_and_the_first_of_them_named() -> None:
    left = [Left(number, None, "failed", f"reason {number}") for number in range(1, 6)]
    text = " ".join(drawn(build_average(left=(Left(9, None, "unknown", "no"), *left))).split())
    assert "5 failed, and the first: record 1: reason 1; record 2: reason 2; record 3: reason 3." in text
    assert "reason 4" not in text and "and the first" not in drawn(build_average())


def test_the_noise_draws_own_error_is_told() -> None:
    noisy, swap = build_map(noise_se=np.full((6, 8), 0.012)), build_map(corruption="swap", noise_se=np.zeros((6, 8)))
    unknown = build_map(noise_se=np.full((6, 8), np.nan))
    assert "standard error, which is at most 0.012" in " ".join(drawn(build_average(noisy, swap)).split())
    assert "cannot be told from one draw" in " ".join(drawn(build_average(unknown)).split())
    assert "noise draws" not in drawn(build_average(swap))


def test_metrics_that_fall_are_strong_where_they_fall() -> None:
    text = drawn(build_average(build_map(metric="kl", total_effect=-3.0)))
    row = next(line for line in text.splitlines() if line.strip().startswith("last subject token"))
    assert row.split()[-1][3:6] == "███" and row.endswith("·" * 12)
    assert "“last subject token” layer 1: −0.300" in text


def test_many_heads_become_one_map() -> None:
    text = drawn(build_average(*head_maps(9)))
    assert text.count("· total effect") == 1 and "“head 8” layer 3: 0.090 [0.089, 0.091]" in text
    assert drawn(build_average(*head_maps(2))).count("· total effect") == 2
