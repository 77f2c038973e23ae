"""Plans: which states a cell restores."""

import pytest

from rome_engine.errors import TraceError
from rome_engine.trace.plan import Patch, plan_map, window_layers


def test_window_of_ten_is_five_below_and_four_above() -> None:
    assert list(window_layers(12, 10, 30)) == [7, 8, 9, 10, 11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("window", [1, 2, 3, 7, 10, 40])
def test_windows_are_clipped_at_both_ends_and_never_empty(window: int) -> None:
    for layer in range(12):
        found = list(window_layers(layer, window, 12))
        whole = range(layer - window // 2, layer - window // 2 + window)
        assert found == [at for at in whole if 0 <= at < 12]
        assert layer in found


def test_a_map_has_a_cell_for_each_token_and_layer() -> None:
    plan = plan_map("hidden", 3, 4, window=10)
    assert [(cell.token, cell.layer) for cell in plan.cells] == [(t, at) for t in range(3) for at in range(4)]
    assert plan.window == 1
    assert plan.cells[5].patches == (Patch(1, "hidden", 1),)
    assert plan_map("mlp", 3, 4, window=2).cells[6].patches == (Patch(1, "mlp", 1), Patch(2, "mlp", 1))


@pytest.mark.parametrize(("kind", "window"), [("heads", 10), ("mlp", 0), ("attn", -3)])
def test_nonsense_is_refused(kind: str, window: int) -> None:
    with pytest.raises(TraceError):
        plan_map(kind, 3, 4, window=window)
