"""JSON to typed values: what a dataclass's annotations say is what a file must hold."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, Union, get_args, get_origin, get_type_hints

Decoder = Callable[[Any], Any]

_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
}


class SchemaError(ValueError):
    """A value does not fit its annotation; `field` is its dotted path, `reason` what is wrong with it."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"field {field or '(top level)'}: {reason}")
        self.field, self.reason = field, reason

    def below(self, name: str | int) -> SchemaError:
        """The same complaint seen from the object (key) or the array (index) around it."""
        outer = f"[{name}]" if isinstance(name, int) else name
        dot = "." if self.field and not self.field.startswith("[") else ""
        return SchemaError(f"{outer}{dot}{self.field}", self.reason)


def decode(kind: Any, value: Any) -> Any:
    """Build a `kind` from plain JSON values.

    `kind` is int, float, str, bool, Any, a dataclass, a NamedTuple (a JSON array), `dict[str, T]`,
    `tuple[T, ...]` or `T | None`. Nothing is converted, except a whole number where a float is due. Only fields
    with a default may be left out.

    Raises SchemaError naming the first field that is missing, unknown or of another type.
    """
    return _decoder(kind)(value)


@cache
def _decoder(kind: Any) -> Decoder:
    """Annotations are looked at once a kind, not once a value: thousands of records are read at a time."""
    if kind is Any:
        return lambda value: value
    if dataclasses.is_dataclass(kind):
        return _dataclass_decoder(kind)
    if hasattr(kind, "_fields"):
        return _namedtuple_decoder(kind)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (present,) = (_decoder(option) for option in get_args(kind) if option is not type(None))
        return lambda value: None if value is None else present(value)
    if origin is dict:
        return _dict_decoder(_decoder(get_args(kind)[1]))
    if origin is tuple:
        item = _decoder(get_args(kind)[0])
        return lambda value: tuple(_decoded((index, item, one) for index, one in enumerate(_array(value))))
    return partial(_decode_scalar, kind)


def _dict_decoder(entry: Decoder) -> Decoder:
    def decode_dict(value: Any) -> Any:
        given = _object(value)
        return dict(zip(given, _decoded((key, entry, one) for key, one in given.items()), strict=True))

    return decode_dict


def _dataclass_decoder(kind: Any) -> Decoder:
    hints = get_type_hints(kind)
    parts = {part.name: _decoder(hints[part.name]) for part in dataclasses.fields(kind)}
    needed = {
        part.name
        for part in dataclasses.fields(kind)
        if part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING
    }

    def decode_object(value: Any) -> Any:
        given = _object(value)
        if missing := sorted(needed - given.keys()):
            raise SchemaError(missing[0], "is missing")
        if unknown := sorted(given.keys() - parts):
            raise SchemaError(unknown[0], "is unknown")
        values = _decoded((name, parts[name], one) for name, one in given.items())
        return kind(**dict(zip(given, values, strict=True)))

    return decode_object


def _namedtuple_decoder(kind: Any) -> Decoder:
    parts = {name: _decoder(hint) for name, hint in get_type_hints(kind).items()}

    def decode_array(value: Any) -> Any:
        given = _array(value)
        if len(given) != len(parts):
            raise SchemaError("", f"expected [{', '.join(parts)}], found {len(given)} values")
        return kind(*_decoded(zip(parts, parts.values(), given, strict=True)))

    return decode_array


def _decoded(named: Iterable[tuple[str | int, Decoder, Any]]) -> list[Any]:
    """The values of (key or index, its decoder, plain value)."""
    found = []
    for name, part, value in named:
        try:
            found.append(part(value))
        except SchemaError as error:
            raise error.below(name) from None
    return found


def _decode_scalar(kind: Any, value: Any) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise SchemaError("", f"expected {_NAMES[kind]}, found {value!r}")
    return value


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SchemaError("", f"expected an object, found {value!r}")
    return value


def _array(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise SchemaError("", f"expected an array, found {value!r}")
    return value
