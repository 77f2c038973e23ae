"""Hooks retain, edit and stop as baukit's users expect, and are gone however the `with` block is left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rome_engine.model.hooks import (
    StopForward,
    Trace,
    TraceDict,
    first_tensor,
    submodule,
    with_first_tensor,
)


class Pair(nn.Module):
    """Returns a tuple, and takes its input by keyword."""

    def forward(self, *, states: Tensor, scale: float = 1.0) -> tuple[Tensor, str]:
        return states * scale, "aside"


class InPlace(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        return states.mul_(2)


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(3, 3) for _ in range(3))
        self.pair = Pair()
        self.doubled = InPlace()
        self.finished = 0

    def forward(self, states: Tensor) -> Tensor:
        states = self.second(self.first(states))
        states = self.pair(states=states, scale=2.0)[0]
        states = self.doubled(self.third(states))
        self.finished += 1
        return states


@pytest.fixture
def chain() -> Iterator[Chain]:
    torch.manual_seed(0)
    module = Chain()
    yield module
    assert hooks(module) == 0, "a hook was left behind"


@pytest.fixture
def states() -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(0))


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_retains_output_and_input(chain: Chain, states: Tensor) -> None:
    with Trace(chain, "second", retain_input=True) as trace:
        chain(states)
    assert torch.equal(trace.input, chain.first(states))
    assert torch.equal(trace.output, chain.second(chain.first(states)))
    assert trace.calls == 1


def test_a_module_may_be_given_itself(chain: Chain, states: Tensor) -> None:
    with Trace(chain.first) as trace:
        chain(states)
    assert torch.equal(trace.output, chain.first(states))
    assert trace.layer is None


def test_retain_output_may_be_off(chain: Chain, states: Tensor) -> None:
    with Trace(chain, "first", retain_output=False) as trace:
        chain(states)
    assert trace.output is None
    assert trace.calls == 1


def test_the_last_call_is_kept(chain: Chain, states: Tensor) -> None:
    with Trace(chain, "first") as trace:
        chain(states)
        chain(states + 1)
    assert trace.calls == 2
    assert torch.equal(trace.output, chain.first(states + 1))


def test_clone_keeps_what_is_overwritten_in_place(chain: Chain, states: Tensor) -> None:
    with Trace(chain, "third") as plain, torch.no_grad():
        result = chain(states)
    with Trace(chain, "third", clone=True) as cloned, torch.no_grad():
        chain(states)
    assert torch.equal(plain.output, result)  # the very tensor that was doubled
    assert torch.equal(cloned.output * 2, result)


def test_detach_cuts_the_graph_of_the_retained_value_only(chain: Chain, states: Tensor) -> None:
    with Trace(chain, "second", detach=True, clone=True) as trace:
        result = chain(states)
    assert not trace.output.requires_grad
    assert result.requires_grad
    with Trace(chain, "second", clone=True) as trace:
        chain(states)
    assert trace.output.requires_grad


def test_detach_and_clone_reach_into_tuples(chain: Chain, states: Tensor) -> None:
    with Trace(chain, "pair", detach=True, clone=True) as trace:
        chain(states)
    tensor, aside = trace.output
    assert isinstance(trace.output, tuple)
    assert not tensor.requires_grad
    assert aside == "aside"


def test_edit_output_replaces_what_later_modules_see(chain: Chain, states: Tensor) -> None:
    named: list[str | None] = []

    def zero(output: Tensor, layer: str | None) -> Tensor:
        named.append(layer)
        return output * 0

    with Trace(chain, "first", edit_output=zero) as edited, Trace(chain, "second", retain_input=True) as second:
        chain(states)
    assert named == ["first"]
    assert torch.equal(second.input, torch.zeros_like(states))
    assert torch.equal(edited.output, torch.zeros_like(states))  # retained as edited
    with Trace(chain, "second", retain_input=True) as after:
        chain(states)
    assert torch.equal(after.input, chain.first(states))


def test_edit_output_of_a_tuple_keeps_its_other_parts(chain: Chain, states: Tensor) -> None:
    def negate(output: Any, _layer: str | None) -> Any:
        return with_first_tensor(output, -first_tensor(output))

    with Trace(chain, "pair", edit_output=negate) as pair, Trace(chain, "third", retain_input=True) as third:
        chain(states)
    assert pair.output[1] == "aside"
    assert torch.equal(third.input, -2 * chain.second(chain.first(states)))


def test_edit_input_by_position_and_by_keyword(chain: Chain, states: Tensor) -> None:
    def one(_value: Tensor, _layer: str | None) -> Tensor:
        return torch.ones_like(states)

    with Trace(chain, "second", edit_input=one, retain_input=True) as second:
        chain(states)
    assert torch.equal(second.input, torch.ones_like(states))
    assert torch.equal(second.output, chain.second(torch.ones_like(states)))
    with Trace(chain, "pair", edit_input=one, retain_input=True) as pair:
        chain(states)
    assert torch.equal(pair.input, torch.ones_like(states))
    assert torch.equal(pair.output[0], 2 * torch.ones_like(states))  # the other keyword is still given


def test_stop_ends_the_pass_there(chain: Chain, states: Tensor) -> None:
    with Trace(chain, "second", stop=True) as second, Trace(chain, "third") as third:
        chain(states)
        raise AssertionError("the pass was not stopped")
    assert second.output is not None
    assert third.calls == 0
    assert chain.finished == 0
    chain(states)
    assert chain.finished == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_errors_pass_through_and_leave_no_hook(chain: Chain, states: Tensor, error: type[BaseException]) -> None:
    with pytest.raises(error), Trace(chain, "first", retain_input=True, stop=True):
        raise error
    assert hooks(chain) == 0

    def fail(output: Tensor, _layer: str | None) -> Tensor:
        raise error

    with pytest.raises(error), TraceDict(chain, ["first", "second"], edit_output=fail, edit_input=fail):
        chain(states)
    assert hooks(chain) == 0


def test_a_stop_is_swallowed_only_where_one_was_asked_for(chain: Chain) -> None:
    with pytest.raises(StopForward), Trace(chain, "first"):
        raise StopForward
    with pytest.raises(StopForward), TraceDict(chain, ["first"]):
        raise StopForward
    with Trace(chain, "first", stop=True):
        raise StopForward


def test_nested_traces_see_each_others_edits_in_order(chain: Chain, states: Tensor) -> None:
    with (
        Trace(chain, "first", edit_output=lambda output, _: output + 1),
        Trace(chain, "first", edit_output=lambda output, _: output * 3) as outer,
    ):
        chain(states)
    assert torch.allclose(outer.output, (chain.first(states) + 1) * 3)


def test_closing_an_inner_trace_leaves_the_outer(chain: Chain, states: Tensor) -> None:
    with Trace(chain, "first") as outer:
        with Trace(chain, "first") as inner:
            chain(states)
        chain(states)
    assert (outer.calls, inner.calls) == (2, 1)


def test_close_may_be_called_twice(chain: Chain) -> None:
    trace = Trace(chain, "first")
    trace.close()
    trace.close()
    assert hooks(chain) == 0


def test_trace_dict_keeps_the_order_given_and_names_each_once(chain: Chain, states: Tensor) -> None:
    with TraceDict(chain, ["third", "first", "third"], retain_input=True) as traces:
        chain(states)
    assert list(traces) == ["third", "first"]
    assert torch.equal(traces["first"].output, chain.first(states))
    assert torch.equal(traces["first"].input, states)
    assert all(trace.calls == 1 for trace in traces.values())


def test_trace_dict_stops_after_the_last_named(chain: Chain, states: Tensor) -> None:
    with TraceDict(chain, ["first", "second"], stop=True) as traces, Trace(chain, "third") as third:
        chain(states)
        raise AssertionError("the pass was not stopped")
    assert [trace.calls for trace in traces.values()] == [1, 1]
    assert third.calls == 0


def test_trace_dict_hands_each_layers_name_to_the_edit(chain: Chain, states: Tensor) -> None:
    seen: list[str | None] = []

    def note(output: Tensor, layer: str | None) -> Tensor:
        seen.append(layer)
        return output

    with TraceDict(chain, ["second", "first"], edit_output=note):
        chain(states)
    assert seen == ["first", "second"]  # as the model calls them


def test_unknown_layers_raise_key_error_and_leave_nothing(chain: Chain) -> None:
    with pytest.raises(KeyError, match="no module 'fourth'"):
        Trace(chain, "fourth")
    with pytest.raises(KeyError, match="fourth"):
        TraceDict(chain, ["first", "fourth"])
    assert hooks(chain) == 0


def test_submodule_walks_dotted_names() -> None:
    linear = nn.Linear(2, 2)
    nested = nn.Sequential(nn.Sequential(linear))
    assert submodule(nested, "0.0") is linear
    with pytest.raises(KeyError):
        submodule(nested, "0.0.weight")


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: (t, None), lambda t: [t, 1]])
def test_with_first_tensor_keeps_the_form(wrap: Any) -> None:
    output = wrap(torch.zeros(2))
    replaced = with_first_tensor(output, torch.ones(2))
    assert type(replaced) is type(output)
    assert torch.equal(first_tensor(replaced), torch.ones(2))
    if not isinstance(output, Tensor):
        assert replaced[1:] == output[1:]
