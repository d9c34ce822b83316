"""How a trainer's class takes parts: a subclass that mixes in what their kind does."""

from __future__ import annotations

from collections.abc import Sequence


def mixed(mixin: type, base: type, attribute: str, names: Sequence[str]) -> type:
    """Subclass of a trainer with a kind's mixin, whose ``attribute`` holds the names of the parts.

    It is called as the trainer with the names behind it, and belongs to the trainer's module.
    """
    body = {
        attribute: tuple(names),
        "__doc__": f"{base.__name__} with {', '.join(names)}.",
        "__module__": base.__module__,
    }
    return type(f"{base.__name__}{''.join(name.upper() for name in names)}", (mixin, base), body)
