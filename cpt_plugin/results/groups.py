"""Accuracy by how often a class was seen in training: thirds by rank, and fixed bands of image counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from cpt_plugin.errors import ConfigError
from cpt_plugin.metrics import class_accuracy

THIRDS = ("head", "mid", "tail")
BANDS = ("many", "medium", "few")
GROUPS = (*THIRDS, *BANDS)


class Bands(NamedTuple):
    """Training images of a class that make it many (at least) and few (at most); what lies between is medium."""

    many_from: int
    few_up_to: int

    def __str__(self) -> str:
        """In words: ``many has 10 or more, medium 4 to 9, few up to 3``."""
        many, few = self
        return f"many has {many} or more, medium {few + 1} to {many - 1}, few up to {few}"


FEW_SHOT_BANDS = Bands(10, 3)
"""For 16 images a class at most."""
LONG_TAILED_BANDS = Bands(101, 19)
"""For long-tailed data sets: above 100, below 20 (Liu et al., CVPR 2019)."""


@dataclass(frozen=True)
class GroupAccuracy:
    """Mean per-class accuracy of a group in percent; None when the group is empty."""

    classes: int
    accuracy: float | None


@dataclass(frozen=True)
class WorstClass:
    """The class with the lowest accuracy (percent); the first of them in class order on a tie."""

    name: str
    accuracy: float


def group_accuracies(
    per_class: Sequence[tuple[int, int]],
    counts: Sequence[int],
    bands: Bands = FEW_SHOT_BANDS,
) -> dict[str, GroupAccuracy]:
    """Mean of the per-class accuracies of each of `GROUPS`.

    head / mid / tail: the frequency ranks 0..K-1 (`ranks_of(counts)`) cut in three runs whose lengths differ by at
    most one, the longer ones first (`numpy.array_split(range(K), 3)`); many / medium / few: by training images, as
    `bands` says (n >= 10, 4..9, n <= 3).
    `per_class` holds (correct, total) of the test set, `counts` the training images after all sampling; both are in
    label order. A class without test images belongs to no group.

    Raises ConfigError when the lengths differ, or correct > total.
    """
    if len(per_class) != len(counts):
        raise ConfigError(f"{len(per_class)} classes tested, {len(counts)} training counts: give one of each per class")
    members: dict[str, list[float]] = {name: [] for name in GROUPS}
    for tested, count, rank in zip(per_class, counts, ranks_of(counts), strict=True):
        accuracy = class_accuracy(*tested)
        if accuracy is not None:
            members[third_of(rank, len(counts))].append(accuracy)
            members[_band(count, bands)].append(accuracy)
    return {
        name: GroupAccuracy(len(values), fmean(values) if values else None)
        for name, values in members.items()
    }


def ranks_of(counts: Sequence[int]) -> list[int]:
    """Rank of each label by its training images, 0 = most; the smaller label first on a tie."""
    ranks = [0] * len(counts)
    for rank, label in enumerate(sorted(range(len(counts)), key=lambda label: -counts[label])):
        ranks[label] = rank
    return ranks


def worst_class(names: Sequence[str], per_class: Sequence[tuple[int, int]]) -> WorstClass | None:
    """The tested class with the lowest accuracy, or None when no class has test images."""
    worst: WorstClass | None = None
    for name, tested in zip(names, per_class, strict=True):
        accuracy = class_accuracy(*tested)
        if accuracy is not None and (worst is None or accuracy < worst.accuracy):
            worst = WorstClass(name, accuracy)
    return worst


def third_of(rank: int, num_classes: int) -> str:
    """The third that a class of this frequency rank (0 = most images) belongs to."""
    size, longer = divmod(num_classes, len(THIRDS))
    ends = (size + (longer > 0), 2 * size + longer)
    return THIRDS[(rank >= ends[0]) + (rank >= ends[1])]


def _band(count: int, bands: Bands) -> str:
    if count >= bands.many_from:
        return "many"
    return "few" if count <= bands.few_up_to else "medium"
