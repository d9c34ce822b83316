"""Checks of settings, shared by the regularizers."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from cpt_plugin.errors import ConfigError


def check_weight(key: str, value: Any) -> float:
    """Return a finite number >= 0; Raises ConfigError naming the key otherwise."""
    if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
        raise ConfigError(f"{key} must be a finite number >= 0, got {value!r}")
    return value


def check_choice(key: str, value: Any, choices: Collection[str]) -> str:
    """Return one of the choices; Raises ConfigError naming the key otherwise."""
    if value not in choices:
        raise ConfigError(f"{key} must be {' or '.join(choices)}, got {value!r}")
    return str(value)
