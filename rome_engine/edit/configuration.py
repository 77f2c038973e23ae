"""A method's settings as JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from math import isfinite, isnan
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from rome_engine.errors import EditError

Config = TypeVar("Config")


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
    types = get_type_hints(type(default))
    given = {name: _value(name, types[name], known[name], value) for name, value in record.items()}
    try:
        return replace(default, **given)
    except TypeError as error:
        raise EditError(f"the settings {record} cannot be used ({error})") from error


def _value(name: str, wanted: Any, known: Any, given: Any) -> Any:
    """The value in the type that the field is declared with. known: its present value, for settings within."""
    if is_dataclass(known) and isinstance(given, Mapping):
        return configured(known, given)
    inside = get_args(wanted)
    if given is None and type(None) in inside:
        return None
    if get_origin(wanted) is tuple and isinstance(given, list | tuple):
        return tuple(_value(name, inside[0], None, one) for one in given)
    # JSON has one kind of number where these have two; a bool is no number here.
    number = isinstance(given, int | float) and not isinstance(given, bool) and not isnan(given)
    if float in (wanted, *inside):
        kind = "a number"
        if number:
            return float(given)
    elif int in (wanted, *inside):
        kind = "a whole number"
        if number and isfinite(given) and given == int(given):
            return int(given)
    else:
        kind = "a list" if get_origin(wanted) is tuple else "settings" if is_dataclass(wanted) else "a text"
        if kind == "a text" and isinstance(given, str):
            return given
    raise EditError(f"{name} is {kind}, not {given!r}")
