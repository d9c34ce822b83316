"""Settings of a trainer that speak of gradient accumulation, under whatever name and however nested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def accumulation_settings(trainer: Any) -> Iterator[tuple[str, float]]:
    """Numbers above 1 under names with "accum" in a trainer, its class and what it is configured by, however nested."""
    names = [name for name in dir(trainer) if "accum" in name.lower() and not name.startswith("__")]
    for name in names:
        try:
            value = getattr(trainer, name)
        except Exception:
            continue
        if _counts(value):
            yield f"trainer.{name}", value
    for name, value in vars(trainer).items() if hasattr(trainer, "__dict__") else ():
        if _is_settings(value):
            yield from _settings(value, name if name == "cfg" else f"trainer.{name}", set())


def _settings(node: Any, path: str, seen: set[int]) -> Iterator[tuple[str, float]]:
    if id(node) in seen or len(seen) > 1000:
        return
    seen.add(id(node))
    items = node.items() if isinstance(node, Mapping) else getattr(node, "__dict__", {}).items()
    for key, value in items:
        where = f"{path}.{key}"
        if "accum" in str(key).lower() and _counts(value):
            yield where, value
        elif _is_settings(value):
            yield from _settings(value, where, seen)


def _is_settings(value: Any) -> bool:
    """Whether something is a node of a configuration: a mapping, or a plain object of attributes."""
    if isinstance(value, Mapping):
        return True
    return type(value).__name__ in ("SimpleNamespace", "Namespace", "CfgNode") or hasattr(value, "__dataclass_fields__")


def _counts(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 1
