"""The parts that a prompt learner can take besides DPC: long-tail losses, regularizers, controls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cpt_plugin import long_tail_losses, regularizers
from cpt_plugin.errors import ConfigError
from cpt_plugin.parts import Part
from trainers import controls

KINDS = (long_tail_losses, regularizers, controls)


def available_parts(asked: Iterable[str] = ()) -> dict[str, type[Part]]:
    """All parts by name, of other packages those asked for, in the order in which they stand in a method's name."""
    wanted = list(asked)
    return {name: part for kind in KINDS for name, part in kind.available(wanted).items()}


def part_names() -> list[str]:
    """Names of all parts, also of those of other packages that are not imported yet."""
    return [name for kind in KINDS for name in kind.names()]


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names in that order.

    Raises:
        ConfigError: one is unknown.
    """
    wanted = list(names)
    order = list(available_parts(wanted))
    if unknown := [name for name in wanted if name not in order]:
        raise ConfigError(f"No part {unknown[0]!r} of a method; there are {', '.join(part_names())}.")
    return tuple(sorted(wanted, key=order.index))


def parts_of(trainer: type) -> tuple[str, ...]:
    """Names of the parts of a trainer's class."""
    held = (getattr(trainer, attribute, ()) for attribute in ("long_tail_losses", "regularizers", "controls"))
    return tuple(name for names in held for name in names)


def check_parts(names: Iterable[str], cfg: Any) -> None:
    """Raise ConfigError for a setting of these parts that is out of range."""
    wanted = set(names)
    for kind in KINDS:
        kind.build(sorted(wanted & kind.available(wanted).keys()), cfg)


def settings_of(names: Iterable[str]) -> dict[str, Any]:
    """Configuration keys that the controls among these parts set, with their values."""
    known = controls.available()
    return {key: value for name in names if name in known for key, value in known[name].settings.items()}
