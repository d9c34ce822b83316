"""What a class must have to be a part of a method's name; each breach is one sentence."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from cpt_plugin.errors import ConfigError

_SETTINGS = (bool, int, float, str, tuple, list)


def check_class(cls: Any, kind: str, base: type) -> None:
    """Raise ConfigError, with the class, its file and what to change, unless `cls` can be a `kind` of part."""
    for breach in _breaches(cls, kind, base):
        raise ConfigError(f"{place(cls)} {breach}")


def place(cls: Any) -> str:
    """A class and the file that defines it, for messages."""
    name = getattr(cls, "__qualname__", repr(cls))
    module = getattr(cls, "__module__", None)
    file = getattr(sys.modules.get(str(module)), "__file__", None)
    return f"{name} ({file or module})"


def is_scalar(value: Any) -> bool:
    """Whether a value is a tensor of one number of floating point, without dimensions."""
    return getattr(value, "shape", None) == () and hasattr(value, "is_floating_point") and value.is_floating_point()


def shown(value: Any) -> str:
    """What a value is, for messages."""
    if hasattr(value, "is_floating_point"):
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    return "None" if value is None else f"a {type(value).__name__}"


def _breaches(cls: Any, kind: str, base: type) -> Iterator[str]:
    parent = f"{base.__module__.removesuffix('.base')}.{base.__name__}"
    if not (isinstance(cls, type) and issubclass(cls, base)):
        yield f"is no {kind}: @register stands above a class derived from {parent}"
        return
    yield from _attribute_breaches(cls)
    for name in sorted(getattr(cls, "__abstractmethods__", ())):
        is_property = isinstance(inspect.getattr_static(base, name, None), property)
        yield f"lacks the {'property' if is_property else 'method'} {name!r}: define it, as {parent} says"
    for name, original in _of_base(base):
        own = inspect.getattr_static(cls, name)
        if isinstance(original, property) and inspect.isroutine(own):
            yield f"has {name!r} as a method, which is always true: write @property above it"
        if isinstance(original, FunctionType) and own is not original:
            yield from _call_breaches(cls, name, original)
    yield from _setting_breaches(cls)


def _attribute_breaches(cls: type) -> Iterator[str]:
    for attribute in ("name", "paper", "description", "config_node"):
        value = getattr(cls, attribute, "")
        if not value:
            yield f"lacks the attribute {attribute!r}: give it a text"
        if not isinstance(value, str):
            yield f"has a {type(value).__name__} as attribute {attribute!r}: make it a text"
    name = getattr(cls, "name", "")
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        yield f"has the name {name!r}: small letters, digits and _ make up names of methods"


def _of_base(base: type) -> Iterator[tuple[str, Any]]:
    """What a part can override: public methods and properties."""
    members = {name: member for owner in reversed(base.__mro__[:-1]) for name, member in vars(owner).items()}
    return ((name, member) for name, member in members.items() if not name.startswith("_"))


def _call_breaches(cls: type, name: str, original: FunctionType) -> Iterator[str]:
    wanted = list(inspect.signature(original).parameters)
    own = inspect.getattr_static(cls, name)
    given = wanted if isinstance(own, FunctionType) else wanted[1:]
    try:
        inspect.signature(getattr(cls, name)).bind(*given)
    except TypeError:
        yield f"has a {name!r} that cannot be called: it must be a method {name}({', '.join(wanted)})"
    except ValueError:  # a callable without a signature, as those written in C
        return


def _setting_breaches(cls: type) -> Iterator[str]:
    for setting in inspect.signature(cls).parameters.values():
        if setting.kind in (setting.VAR_POSITIONAL, setting.VAR_KEYWORD, setting.POSITIONAL_ONLY):
            yield f"has {str(setting)!r} in __init__: name every setting there, with a default value"
        elif setting.default is setting.empty:
            yield f"has a setting without default: give setting {setting.name!r} a default value"
        elif not isinstance(setting.default, _SETTINGS):
            allowed = ", ".join(kind.__name__ for kind in _SETTINGS)
            yield f"has {setting.default!r} as default of setting {setting.name!r}: make it one of {allowed}"
