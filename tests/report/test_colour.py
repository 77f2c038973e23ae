from itertools import pairwise
from math import dist

import pytest

from rome_engine.report import colour
from rome_engine.report.colour import NEUTRAL, ramp

KINDS = ("hidden", "mlp", "attn", "head", "pre", "mid", "none")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_is_uniform_and_ordered_by_lightness_alone(kind: str, negative: bool, dark: bool) -> None:
    points = [colour._to_oklab(each) for each in ramp(kind, 33, dark=dark, negative=negative)]
    steps = [dist(first, second) for first, second in pairwise(points)]
    mean = sum(steps) / len(steps)
    assert max(steps) < 1.35 * mean and min(steps) > 0.65 * mean  # 8 bits a channel leave this much unevenness
    lightness = [point[0] for point in points]
    assert lightness == sorted(lightness, reverse=not dark)
    assert abs(lightness[-1] - lightness[0]) > 0.45


@pytest.mark.parametrize("kind", KINDS)
def test_both_signs_start_at_the_same_neutral(kind: str) -> None:
    for dark in (False, True):
        assert ramp(kind, dark=dark)[0] == ramp(kind, dark=dark, negative=True)[0] == NEUTRAL[dark]


def test_signs_and_kinds_have_different_ends() -> None:
    ends = {ramp(kind, negative=negative)[-1] for kind in KINDS[:-1] for negative in (False, True)}
    assert len(ends) == 12


def test_a_scale_ends_at_its_last_anchor() -> None:
    assert ramp("hidden", 7)[-1] == colour.POSITIVE["hidden", False][-1]
