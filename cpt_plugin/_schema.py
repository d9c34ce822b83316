"""JSON to typed values: what a dataclass's annotations say is what a file must hold."""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
}


class SchemaError(ValueError):
    """A value does not fit its annotation; `field` is its dotted path."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"field {field or '(top level)'}: {reason}")
        self.field = field


def decode(kind: Any, value: Any, field: str = "") -> Any:
    """Build a `kind` from plain JSON values.

    `kind` is int, float, str, bool, Any, a dataclass, a NamedTuple (a JSON array), `dict[str, T]`,
    `tuple[T, ...]` or `T | None`. Nothing is converted, except a whole number where a float is due. Only fields
    with a default may be left out.

    Raises SchemaError naming the first field that is missing, unknown or of another type.
    """
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, field)
    if hasattr(kind, "_fields"):
        return _decode_namedtuple(kind, value, field)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (present,) = (option for option in get_args(kind) if option is not type(None))
        return None if value is None else decode(present, value, field)
    if origin is dict:
        entries = _object(value, field)
        return {key: decode(get_args(kind)[1], entry, _join(field, key)) for key, entry in entries}
    if origin is tuple:
        items = enumerate(_array(value, field))
        return tuple(decode(get_args(kind)[0], entry, f"{field}[{index}]") for index, entry in items)
    return _decode_scalar(kind, value, field)


def _decode_dataclass(kind: Any, value: Any, field: str) -> Any:
    hints, given = get_type_hints(kind), dict(_object(value, field))
    needed = {part.name for part in dataclasses.fields(kind) if part.default is dataclasses.MISSING}
    missing, unknown = sorted(needed - given.keys()), sorted(given.keys() - hints)
    if missing:
        raise SchemaError(_join(field, missing[0]), "is missing")
    if unknown:
        raise SchemaError(_join(field, unknown[0]), "is unknown")
    return kind(**{name: decode(hints[name], entry, _join(field, name)) for name, entry in given.items()})


def _decode_namedtuple(kind: Any, value: Any, field: str) -> Any:
    hints, given = get_type_hints(kind), _array(value, field)
    if len(given) != len(hints):
        raise SchemaError(field, f"expected [{', '.join(hints)}], found {len(given)} values")
    named = zip(hints.items(), given, strict=True)
    return kind(*(decode(hint, entry, _join(field, name)) for (name, hint), entry in named))


def _decode_scalar(kind: Any, value: Any, field: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise SchemaError(field, f"expected {_NAMES[kind]}, found {value!r}")
    return value


def _object(value: Any, field: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise SchemaError(field, f"expected an object, found {value!r}")
    return list(value.items())


def _array(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise SchemaError(field, f"expected an array, found {value!r}")
    return list(value)


def _join(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name
