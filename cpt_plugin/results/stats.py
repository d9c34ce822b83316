"""Mean, spread, confidence and tests; exact in the order of its inputs, so tables re-render alike."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from cpt_plugin.errors import ConfigError

_BISECTIONS = 64
_DIGITS = 12
"""Decimals of quantiles and probabilities: sines and tangents differ in the last bit between C libraries."""
_ROUNDING = 1e-9
"""Percentage points: a spread up to this comes from floating point, not from the runs."""


@dataclass(frozen=True)
class Summary:
    """Mean over n seeds or worlds, sample standard deviation (ddof = 1), t-interval (both None for n = 1)."""

    n: int
    mean: float
    std: float | None
    interval: tuple[float, float] | None


def summarize(values: Sequence[float], confidence: float = 0.95) -> Summary | None:
    """Summary of one value a seed or world; None without values.

    The interval is mean +- t * std / sqrt(n) with the quantile of n - 1 degrees of freedom at (1 + confidence) / 2.
    """
    if not values:
        return None
    count, mean = len(values), statistics.mean(map(float, values))
    if count == 1:
        return Summary(1, mean, None, None)
    std = statistics.stdev(map(float, values))
    margin = t_quantile((1 + confidence) / 2, count - 1) * std / math.sqrt(count)
    return Summary(count, mean, std, (mean - margin, mean + margin))


def harmonic_mean(base: float, new: float) -> float:
    """H = 2 base new / (base + new); 0 when both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


@cache
def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t with a whole number of degrees of freedom, to 12 decimals, by bisection on the angle.

    t = sqrt(nu) tan(theta); P(|T| <= t) is a finite sum of powers of cos(theta).
    Source: Abramowitz and Stegun, 26.7.3 and 26.7.4.

    Raises ConfigError unless 1/2 <= probability < 1 and degrees >= 1.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ConfigError(f"no t quantile for probability {probability} with {degrees} degrees of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return round(math.sqrt(degrees) * math.tan(low), _DIGITS)


def t_tails(t: float, degrees: int) -> float:
    """P(|T| >= |t|) for Student's t with a whole number of degrees of freedom, to 12 decimals.

    Raises ConfigError for NaN, or unless degrees >= 1.
    """
    if math.isnan(t) or degrees < 1:
        raise ConfigError(f"no probability of t = {t} with {degrees} degrees of freedom")
    inside = _central_probability(math.atan2(abs(t), math.sqrt(degrees)), degrees)
    return round(min(1.0, max(0.0, 1 - inside)), _DIGITS)


def p_value(summary: Summary | None) -> float | None:
    """Two-sided p of the t-test that the mean is 0; None without a spread to judge by."""
    if summary is None or summary.std is None or summary.std <= _ROUNDING:
        return None
    return t_tails(summary.mean / summary.std * math.sqrt(summary.n), summary.n - 1)


def bonferroni(values: Sequence[float], count: int) -> list[float]:
    """min(1, count * p) for each p: one or more false claims among `count` with probability alpha at most."""
    return [min(1.0, count * value) for value in values]


def holm(values: Sequence[float]) -> list[float]:
    """Adjusted p of Holm's step-down method (Scand. J. Statist. 6, 1979), in the order given.

    The k-th smallest of n is the largest of min(1, (n - j + 1) p_(j)) over j <= k.
    """
    adjusted, largest = [0.0] * len(values), 0.0
    for place, index in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = largest
    return adjusted


def _central_probability(theta: float, degrees: int) -> float:
    cosine, sine, odd = math.cos(theta), math.sin(theta), degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for power in range(3 if odd else 2, degrees - 1, 2):
        term *= cosine * cosine * (power - 1) / power
        total += term
    return (theta + sine * total) * 2 / math.pi if odd else sine * total
