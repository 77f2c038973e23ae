"""A method's settings as JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

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
    given = {name: _value(known[name], value) for name, value in record.items()}
    try:
        return replace(default, **given)
    except TypeError as error:
        raise EditError(f"the settings {record} cannot be used ({error})") from error


def _value(known: Any, given: Any) -> Any:
    if is_dataclass(known) and isinstance(given, Mapping):
        return configured(known, given)
    if isinstance(given, list):
        return tuple(given)
    # JSON has one kind of number where these have two.
    return float(given) if isinstance(known, float) and type(given) is int else given
