"""How much C⁻¹k still moves: what the figure is, and that a collection tells it of its own halves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rome_engine.errors import StatisticsError
from rome_engine.stats import Convergence, SecondMoment, collect
from tests import tiny
from tests.stats.test_second_moment import moment
from tests.stats.texts import corpus


def test_it_is_what_its_words_say() -> None:
    before, after = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    found = Convergence.between(before, after, 10, 20)
    assert (found.keys_before, found.keys, found.probes) == (10, 20, 2)
    assert (found.turned, found.stretched) == pytest.approx((0.5, (0.5 + 2.0) / 2))
    assert Convergence.between(after, after, 1, 2).turned < 1e-15


def test_it_falls_with_more_keys() -> None:
    draw = torch.Generator().manual_seed(0)
    k, probes = torch.randn(16000, 60, generator=draw) + 0.5, torch.randn(60, 20, generator=draw)
    figures = []
    for number in (250, 1000, 4000, 16000):
        before, after = (moment(k[:some]).solve(probes) for some in (number // 2, number))
        figures.append(Convergence.between(before, after, number // 2, number))
    for name in ("turned", "stretched"):
        values = [getattr(figure, name) for figure in figures]
        assert values == sorted(values, reverse=True) and values[0] > 10 * values[-1]


def test_a_probe_that_is_among_the_keys_turns_nothing() -> None:
    """Sherman and Morrison: what its docstring says of probes taken from the corpus."""
    k = torch.randn(200, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    without, with_it = moment(k[1:]), moment(k)
    found = Convergence.between(without.solve(k[:1].T), with_it.solve(k[:1].T), 199, 200)
    assert found.turned < 1e-12 and found.stretched > 1e-2
    other = Convergence.between(without.solve(k[1:2].T), with_it.solve(k[1:2].T), 199, 200)
    assert other.turned > 1e-6


class TestOfACollection:
    def collected(self, folder: Path, tokens: int) -> SecondMoment:
        return collect(tiny.shared("llama"), corpus(folder), [1], tokens=tokens, length=32, batch_tokens=64)[1]

    def test_it_compares_half_of_the_tokens_with_all(self, tmp_path: Path) -> None:
        half, whole = self.collected(tmp_path, 1600), self.collected(tmp_path, 3200)
        found = whole.convergence
        assert found is not None and (found.keys_before, found.keys) == (half.count, whole.count)
        assert 0 < found.turned < 1 and found.stretched > 0 and 0 < found.probes <= 64

    def test_too_few_keys_are_unknown(self, tmp_path: Path) -> None:
        made = self.collected(tmp_path, 40)
        with pytest.raises(StatisticsError):
            made.solve(torch.ones(made.d))
        assert made.convergence is None

    def test_it_is_kept_in_the_file_until_keys_come(self, tmp_path: Path) -> None:
        made = self.collected(tmp_path, 3200)
        made.save(tmp_path / "m")
        back = SecondMoment.load(tmp_path / "m")
        assert back.convergence == made.convergence is not None
        back.update(torch.ones(1, back.d))
        assert back.convergence is None
        made.merge(SecondMoment(made.d))
        assert made.convergence is None

    def test_ill_typed_values(self) -> None:
        good = Convergence(1, 2, 3, 0.1, 0.2).to_dict()
        assert Convergence.from_dict(good).to_dict() == good
        for change in ({"keys": "2"}, {"turned": None}, {"probes": 0.5}):
            with pytest.raises(ValueError, match=next(iter(change))):
                Convergence.from_dict(good | change)
