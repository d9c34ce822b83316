"""Checks of single numbers that somebody gives: settings, arguments, configuration keys."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from cpt_plugin.errors import ConfigError, CPTError

_LARGEST = 2**31 - 1


def number(
    key: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """Return a finite number within the bounds, NumPy's as Python's.

    Raises:
        ConfigError: naming the key; truth values, text, NaN and infinity are no numbers.
    """
    if _is_finite(value) and least <= value <= most and above < value < below:
        return value if type(value) in (int, float) else float(value)
    bounds = ((">=", least), (">", above), ("<=", most), ("<", below))
    stated = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound))
    raise ConfigError(f"{key} must be a finite number{stated and ' ' + stated}, got {value!r}")


def whole(key: str, value: Any, least: int, error: type[CPTError] = ConfigError) -> int:
    """Return a whole number in least .. 2^31 - 1, NumPy's as Python's.

    Raises:
        error: naming the key; truth values and 2.0 are no whole numbers.
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= _LARGEST:
        return int(value)
    raise error(f"{key} must be a whole number in {least} .. 2^31 - 1, got {value!r}")


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False
