"""Checks of settings, shared by the long-tail losses."""

from __future__ import annotations

from cpt_plugin.errors import ConfigError


def check_beta(key: str, beta: float) -> float:
    """Return a number in [0, 1); Raises ConfigError naming the key otherwise."""
    if not 0 <= beta < 1:
        raise ConfigError(f"{key} must be in [0, 1), got {beta!r}")
    return beta
