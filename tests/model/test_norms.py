from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rome_engine.errors import UnsupportedModelError
from rome_engine.model.norms import FrozenNorm, frozen

D = 24


def norm(kind: str) -> nn.Module:
    torch.manual_seed(0)
    made = nn.LayerNorm(D) if kind == "layer" else nn.RMSNorm(D, eps=1e-6)
    for parameter in made.parameters():
        nn.init.normal_(parameter, mean=0.5)
    return made


def state(width: int = D) -> Tensor:
    return 3 * torch.randn(width, generator=torch.Generator().manual_seed(1)) + 1


def at(module: nn.Module, x: Tensor) -> FrozenNorm:
    return frozen(module, x, module(x).detach())


@pytest.mark.parametrize(("kind", "centred"), [("layer", True), ("rms", False)])
def test_a_frozen_norm_is_the_norm_at_its_state(kind: str, centred: bool) -> None:
    module, x, direction = norm(kind), state(), torch.randn(D).double()
    found = at(module, x)

    assert found.centred is centred
    assert float(found.pull_back(direction) @ x.double() + direction @ found.bias) == pytest.approx(
        float(direction @ module(x).detach().double()), rel=1e-5
    )
    assert torch.allclose(found.bias, module(torch.zeros(D)).double())


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_it_is_linear_where_the_norm_is_not(kind: str) -> None:
    module, x, direction = norm(kind), state(), torch.randn(D).double()
    one, other = x * torch.rand(D), torch.randn(D)
    pulled = at(module, x).pull_back(direction)

    assert float(pulled @ (one + other).double()) == pytest.approx(
        float(pulled @ one.double() + pulled @ other.double())
    )
    bias = module(torch.zeros(D))
    assert not torch.allclose(module(one + other) - bias, module(one) + module(other) - 2 * bias, rtol=0.1)


@pytest.mark.parametrize("width", [2, 7])
def test_widths_even_and_odd(width: int) -> None:
    for module in (nn.LayerNorm(width), nn.RMSNorm(width)):
        at(module, state(width))


class _Bent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class _Sorted(nn.Module):
    """Right for the probes, wrong for the state."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(x.sort(-1, descending=True).values if x.unique().numel() > 2 else x, (D,))


@pytest.mark.parametrize("module", [_Bent(), _Sorted()])
def test_what_is_no_norm_is_refused(module: nn.Module) -> None:
    with pytest.raises(UnsupportedModelError, match=type(module).__name__):
        at(module, state())


def test_an_output_that_is_not_the_norms_is_refused() -> None:
    module = norm("layer")
    with pytest.raises(UnsupportedModelError, match="LayerNorm"):
        frozen(module, state(), module(state()).detach() * 1.01)


def test_states_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="relative error nan"):
        at(norm("rms"), state() * float("nan"))
