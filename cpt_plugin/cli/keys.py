"""Configuration keys, checked against the engine's defaults before anything is installed; standard library only."""

from __future__ import annotations

import runpy
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

from cpt_plugin._names import nearest
from cpt_plugin.errors import ConfigError
from cpt_plugin.methods import PACKAGE

_OPEN_NODE = "TRAINER"


def check_key(key: str, part_names: Collection[str]) -> None:
    """Refuse a key that no part of the program has.

    Keys below ``TRAINER`` and below the node of a method's part are known only to files that need torch; they are
    checked when the configuration is assembled.

    Raises:
        ConfigError: with the nearest key.
    """
    top = key.partition(".")[0]
    nodes = {name.upper() for name in part_names} | {_OPEN_NODE}
    if top not in nodes and key not in _engine_keys():
        raise ConfigError(f"unknown configuration key '{key}'; nearest: '{nearest(key, [*_engine_keys(), *nodes])}'")


def is_engine_key(word: str) -> bool:
    """Whether the engine's configuration has this key."""
    return word in _engine_keys()


@cache
def _engine_keys() -> frozenset[str]:
    # Run by path: importing the package around this file would load torch.
    defaults = runpy.run_path(str(PACKAGE / "toolkit" / "embedded" / "defaults.py"))["DEFAULTS"]
    return frozenset(_leaves(defaults))


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
