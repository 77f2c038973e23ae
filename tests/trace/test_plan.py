"""Plans: which states a cell exchanges, and which it holds."""

import pytest

from rome_engine.errors import TraceError
from rome_engine.trace.plan import Patch, Pin, plan_map, window_layers


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
    plan = plan_map("hidden", range(3), 4, window=10)
    assert [(cell.token, cell.layer) for cell in plan.cells] == [(t, at) for t in range(3) for at in range(4)]
    assert plan.window == 1
    assert plan.cells[5].patches == (Patch(1, "hidden", 1),)
    assert plan_map("mlp", range(3), 4, window=2).cells[6].patches == (Patch(1, "mlp", 1), Patch(2, "mlp", 1))
    assert [cell.token for cell in plan_map("mid", (2, 5), 1).cells] == [2, 5]


def test_the_residual_before_a_block_is_the_output_of_the_one_below() -> None:
    assert [cell.patches for cell in plan_map("pre", (7,), 3).cells] == [(Patch(at, "hidden", 7),) for at in (-1, 0, 1)]


def test_the_direction_says_which_run_gives_the_states() -> None:
    (cell,) = plan_map("attn", (1,), 1, direction="corrupt").cells
    assert cell.patches == (Patch(0, "attn", 1, "corrupted"),)


def test_a_head_is_one_of_many() -> None:
    plan = plan_map("head", (1,), 2, head=3)
    assert plan.head == 3 and [cell.patches for cell in plan.cells] == [
        (Patch(at, "head", 1, "clean", 3),) for at in (0, 1)
    ]


def test_pins_hold_the_patched_runs_values_but_what_is_exchanged() -> None:
    pins = [Pin("mlp"), Pin("attn", (2,), (0, 4))]
    cell = plan_map("mlp", (1,), 3, window=1, pins=pins).cells[1]
    assert set(cell.patches) == {
        Patch(1, "mlp", 1, "clean"),
        *(Patch(at, "mlp", 1, "corrupted") for at in (0, 2)),
        *(Patch(2, "attn", at, "corrupted") for at in (0, 4)),
    }
    assert {patch.source for patch in plan_map("hidden", (1,), 3, pins=pins, direction="corrupt").cells[0].patches} == {
        "clean",
        "corrupted",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "heads"},
        {"kind": "mlp", "window": 0},
        {"kind": "attn", "window": -3},
        {"kind": "mlp", "direction": "up"},
        {"kind": "head"},
        {"kind": "mlp", "head": 1},
    ],
)
def test_nonsense_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(TraceError):
        plan_map(positions=range(3), layers=4, **arguments)  # type: ignore[arg-type]
