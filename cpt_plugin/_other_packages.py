"""Parts that other packages bring along, by name, read without importing them; standard library only."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from cpt_plugin.errors import ConfigError

GROUPS = {"loss": "cpt_plugin.long_tail_losses", "regularizer": "cpt_plugin.regularizers"}
"""Group of entry points by kind of part: the package whose folder holds this project's own."""
VARIABLE = "CPT_REGULARIZERS"
"""Modules that are installed by nobody, with commas between: ``my_losses.spread`` is the regularizer ``spread``."""


def parts_of_others(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Entry points of a group by name; more than one of a name where packages contradict each other.

    Read once for each ``sys.path`` and value of CPT_REGULARIZERS, which counts as entry points of regularizers.
    """
    return _found(group, os.environ.get(VARIABLE, ""), tuple(sys.path))


def origin(entry: EntryPoint) -> str:
    """Where an entry point comes from, for messages: a distribution and its version, or the variable."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else f"${VARIABLE}"


def refusal(kind: str, name: str, entries: tuple[EntryPoint, ...], reason: str) -> ConfigError:
    """The error for a part of another package that is of no use: what, whose, why, what to do."""
    owners = " and ".join(origin(entry) for entry in entries)
    remedy = f"update or uninstall {owners}" if entries[0].dist else f"correct that module, or take it out of {owners}"
    where = ", ".join(dict.fromkeys(entry.value for entry in entries))
    return ConfigError(" ".join(f"{kind} {name!r} of {owners} ({where}): {reason}; {remedy}".split()))


@cache
def _found(group: str, variable: str, _path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    named = [EntryPoint(word.rpartition(".")[2], word, group) for word in variable.replace(" ", "").split(",") if word]
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in [*entry_points(group=group), *(named if group == GROUPS["regularizer"] else [])]:
        others = found.get(entry.name, ())
        if entry.value not in (other.value for other in others):
            found[entry.name] = (*others, entry)
    return found
