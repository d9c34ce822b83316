"""Checks of settings, shared by the regularizers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cpt_plugin.errors import ConfigError


def check_choice(key: str, value: Any, choices: Collection[str]) -> str:
    """Return one of the choices; Raises ConfigError naming the key otherwise."""
    if value not in choices:
        raise ConfigError(f"{key} must be {' or '.join(choices)}, got {value!r}")
    return str(value)
