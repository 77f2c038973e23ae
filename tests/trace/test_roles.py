"""Token roles: each position has one."""

from __future__ import annotations

import pytest

from rome_engine.trace.roles import BEFORE, ROLES, role_of


@pytest.mark.parametrize(
    ("subject", "tokens", "roles"),
    [
        ((1, 5), 9, [BEFORE, *(ROLES[at] for at in (0, 1, 1, 2, 3, 4, 4, 5))]),
        ((0, 2), 4, [ROLES[at] for at in (0, 2, 3, 5)]),
        ((0, 1), 2, [ROLES[2], ROLES[5]]),
        ((1, 3), 3, [BEFORE, ROLES[0], ROLES[2]]),
        ((0, 1), 3, [ROLES[2], ROLES[3], ROLES[5]]),
    ],
)
def test_each_position_has_one_role(subject: tuple[int, int], tokens: int, roles: list[str]) -> None:
    assert [role_of(position, subject, tokens) for position in range(tokens)] == roles
