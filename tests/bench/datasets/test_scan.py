"""Where elements stand: the same values as a decoder's, each at the line on which it begins."""

from __future__ import annotations

import json

import pytest

from rome_engine.bench.datasets.scan import elements, member, whole_list, with_lines


def is_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except json.JSONDecodeError:
        return False


VALUES = [1, "a\n[", {"b": [1, {"c": "]"}]}, [], [[2]], None, "\u2028é"]


@pytest.mark.parametrize("indent", [None, 0, 1, 4])
@pytest.mark.parametrize("around", ["", "\n \t\r\n"])
def test_the_values_are_the_decoders(indent: int | None, around: str) -> None:
    text = around + json.dumps(VALUES, indent=indent) + around
    found = list(whole_list(text))
    assert [value for _, value in found] == VALUES
    assert all(json.JSONDecoder().raw_decode(text, at)[0] == value for at, value in found)


def test_lines_are_those_on_which_values_begin() -> None:
    text = '\n[1, {"a":\n\n2}\n,\n"x", "y"\n]\n'
    assert list(with_lines(text, whole_list(text))) == [(2, 1), (2, {"a": 2}), (6, "x"), (6, "y")]


def test_an_empty_list() -> None:
    assert list(whole_list(" [ ] ")) == []


@pytest.mark.parametrize("text", ["", "[", "[1", "[1,", "[1,]", "[1 2]", "[1] 2", "{}", "[1}", '["a]', "[,]", "1"])
def test_what_is_no_list_is_refused_like_by_the_decoder(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        list(whole_list(text))
    assert not is_list(text)


def test_a_members_list() -> None:
    text = '{"a": {"list": [0]}, "b" :\n"list",\n"list": [1,\n2], "z": 0}'
    assert list(with_lines(text, elements(text, member(text, "list")))) == [(3, 1), (4, 2)]
