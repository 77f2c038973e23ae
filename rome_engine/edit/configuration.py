"""A method's settings as JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from math import isfinite
from typing import Any, TypeVar

from rome_engine.errors import EditError

Config = TypeVar("Config")

_KINDS: dict[type, str] = {int: "a whole number", str: "a text", tuple: "a list"}


def configured(default: Config, record: Mapping[str, Any]) -> Config:
    """These settings with the fields that a JSON object names, one within another, in their place.

    Raises EditError for a field that the settings have not, and for values that they refuse.
    """
    assert is_dataclass(default) and not isinstance(default, type)
    known = {field.name: getattr(default, field.name) for field in fields(default)}
    unknown = sorted(set(record) - set(known))
    if unknown:
        raise EditError(
            f"{type(default).__name__} has no setting {', '.join(unknown)}: known are {', '.join(sorted(known))}"
        )
    given = {name: _value(name, known[name], value) for name, value in record.items()}
    try:
        return replace(default, **given)
    except TypeError as error:
        raise EditError(f"the settings {record} cannot be used ({error})") from error


def _value(name: str, known: Any, given: Any) -> Any:
    """The value in the type of the one that is known."""
    if is_dataclass(known) and isinstance(given, Mapping):
        return configured(known, given)
    if isinstance(known, tuple) and isinstance(given, list | tuple) and known:
        return tuple(_value(name, known[0], one) for one in given)
    # JSON has one kind of number where these have two; a bool is no number here.
    number = isinstance(given, int | float) and not isinstance(given, bool) and isfinite(given)
    if isinstance(known, float) or known is None:
        if number or (known is None and given is None):
            return None if given is None else float(given)
    elif isinstance(known, int) and not isinstance(known, bool):
        if number and given == int(given):
            return int(given)
    elif type(given) is type(known):
        return given
    raise EditError(f"{name} is {_KINDS.get(type(known), 'a number')}, not {given!r}")
