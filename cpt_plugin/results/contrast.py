"""The paired difference of two methods in one metric at one tau, the world (data set) as the random effect.

Seeds of one world share its classes and images, so they are no independent evidence about other worlds: each world
counts once, by the mean over its seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean

from cpt_plugin.results.stats import Summary, p_value, summarize

ALPHA = 0.05
CLAIM_WORLDS = 6
"""Fewer worlds are exploratory: below six not even a sign test with all signs alike reaches 5 % (2 / 2^5 > 0.05)."""

ABOVE, BELOW, NOT_SHOWN = "above", "below", "not shown"
EXPLORATORY, ONE_WORLD, NOTHING = "exploratory", "one world", "nothing"


@dataclass(frozen=True)
class Correction:
    """For how many comparisons p-values are corrected, and how: ``bonferroni``, ``holm``, or "" for not at all."""

    method: str = ""
    count: int = 1

    @property
    def confidence(self) -> float:
        """Of the intervals: simultaneous under Bonferroni, else 95 % each."""
        return 1 - ALPHA / self.count if self.method == "bonferroni" else 1 - ALPHA


@dataclass(frozen=True)
class WorldPairs:
    """One world: (value of the first, value of the second) in percent by seed; expected: number of seeds."""

    world: str
    by_seed: dict[int, tuple[float, float]]
    expected: int

    @property
    def difference(self) -> Summary | None:
        """First minus second over the seeds; its spread is the one within this world."""
        return summarize([a - b for a, b in self.by_seed.values()])


@dataclass(frozen=True)
class Contrast:
    """One comparison: the first method minus the second in one metric at one tau.

    worlds: those expected, also without pairs; p_adjusted: after the correction, None where there is no test.
    """

    first: str
    second: str
    metric: str
    tau: float
    worlds: tuple[WorldPairs, ...]
    correction: Correction = field(default_factory=Correction)
    p_adjusted: float | None = None

    @property
    def paired(self) -> tuple[WorldPairs, ...]:
        """The worlds with a pair at least."""
        return tuple(world for world in self.worlds if world.by_seed)

    @property
    def pairs(self) -> int:
        """Number of (world, seed) with both."""
        return sum(len(world.by_seed) for world in self.worlds)

    @property
    def expected(self) -> int:
        """Number of pairs there should be."""
        return sum(world.expected for world in self.worlds)

    @property
    def means(self) -> tuple[float, float] | None:
        """Mean of each of the two over the worlds' means, of paired runs only."""
        if not self.paired:
            return None
        first, second = (
            fmean(fmean(pair[side] for pair in world.by_seed.values()) for world in self.paired) for side in (0, 1)
        )
        return first, second

    @property
    def difference(self) -> Summary | None:
        """Over the worlds' means over seeds (n - 1 degrees of freedom); over the seeds where there is one world."""
        confidence = self.correction.confidence
        if len(self.paired) == 1:
            return summarize([a - b for a, b in self.paired[0].by_seed.values()], confidence)
        return summarize([world.difference.mean for world in self.paired if world.difference], confidence)

    @property
    def p(self) -> float | None:
        """Two-sided p of the t-test, not corrected; None for one pair, or the same difference in every unit."""
        return p_value(self.difference)

    @property
    def within(self) -> float | None:
        """Standard deviation over seeds, pooled over the worlds with two pairs or more."""
        found = [s for world in self.paired if (s := world.difference) and s.std is not None]
        degrees = sum(one.n - 1 for one in found)
        return math.sqrt(math.fsum((one.n - 1) * (one.std or 0) ** 2 for one in found) / degrees) if degrees else None

    @property
    def direction(self) -> str:
        """ABOVE or BELOW where the corrected p is below 5 %, else NOT_SHOWN."""
        if self.difference is None or self.p_adjusted is None or self.p_adjusted >= ALPHA:
            return NOT_SHOWN
        return ABOVE if self.difference.mean > 0 else BELOW

    @property
    def verdict(self) -> str:
        """What may be claimed."""
        if len(self.paired) < 2:
            return ONE_WORLD if self.paired else NOTHING
        return self.direction if len(self.paired) >= CLAIM_WORLDS else EXPLORATORY
