"""Long-tailed few-shot training sets: an exponentially shrinking prefix of each class's few-shot sample."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter, index
from typing import Any, TypeVar

from cpt_plugin.errors import ConfigError, DataError

Item = TypeVar("Item")

CLASS_ORDERS = ("label", "random")
NATURAL = "natural"
"""On a command line, the tail that the data have themselves: no image is left out. It is tau 1 with all images."""
ALL_IMAGES = -1
"""``DATASET.NUM_SHOTS`` that takes all training images."""
_ROUNDING = 1e-9  # far above the rounding error of max * tau**x, far below any gap that matters


@dataclass(frozen=True)
class LongTail:
    """What was asked for and what came out; `counts` and `ranks` are indexed by label.

    `realized_tau` = min / max images over the classes that have any. It exceeds `tau` where
    tau < 1 / max_per_class (no class falls below one image) or where classes had too few images.
    """

    tau: float
    realized_tau: float
    counts: tuple[int, ...]
    ranks: tuple[int, ...]
    order: str

    def describe(self) -> str:
        """One log line: the ratio asked for, the realized one, and the spread of the counts."""
        present = [count for count in self.counts if count]
        return (
            f"long tail: tau {self.tau:g} asked, {self.realized_tau:.4g} realized; "
            f"{len(self.counts)} classes ranked by {self.order}; "
            f"{max(present)} to {min(present)} images a class, {sum(present)} in all"
        )


def is_natural(tau: float, shots: int) -> bool:
    """Whether neither ``tau`` nor ``shots`` leaves an image out."""
    return tau == 1 and shots < 1


def tail_in_words(tau: float, shots: int) -> str:
    """``tau 0.25``, or ``natural`` for all images."""
    return NATURAL if is_natural(tau, shots) else f"tau {tau:g}"


def shots_in_words(shots: int) -> str:
    """``16 shots``, or ``all images``."""
    return "all images" if shots < 1 else f"{shots} shots"


def shot_counts(num_classes: int, tau: float, max_per_class: int = 16) -> list[int]:
    """Training images for each class rank, most frequent first.

    n_r = max(1, floor(n_max * tau^(r / (K - 1)))) for r = 0..K-1; n_0 = n_max when K = 1
    (K `num_classes`, n_max `max_per_class`, tau = n_{K-1} / n_0 in (0, 1]).
    Values that are whole numbers up to rounding error are not floored down to the number below.

    Raises ConfigError for tau outside (0, 1], K < 1 or n_max < 1.
    Source: CPT (CVPR 2026), imbalanced protocol: exponential decay as in long-tailed recognition.
    """
    _check_tau(tau)
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}: a long tail needs at least one class")
    if max_per_class < 1:
        raise ConfigError(f"DATASET.MAX_PER_CLASS is {max_per_class}: give at least 1")
    span = max(1, num_classes - 1)
    decayed = (max_per_class * tau ** (rank / span) for rank in range(num_classes))
    return [max(1, math.floor(value + _ROUNDING)) for value in decayed]


def most_per_class(dataset: Any) -> int | None:
    """n_max of a configuration's ``DATASET`` node: MAX_PER_CLASS, where that is 0 NUM_SHOTS.

    None, for the size of the largest class, where all images are taken (NUM_SHOTS below 1).

    Raises ConfigError for a negative MAX_PER_CLASS.
    """
    given = dataset.MAX_PER_CLASS
    if given < 0:
        raise ConfigError(f"DATASET.MAX_PER_CLASS is {given}: give at least 1, or 0 to follow DATASET.NUM_SHOTS")
    return given or (dataset.NUM_SHOTS if dataset.NUM_SHOTS >= 1 else None)


def class_ranks(num_classes: int, order: str = "label", seed: int = 0) -> list[int]:
    """Rank of each label (0 = most images): the label itself, or a permutation fixed by `seed` alone.

    Raises ConfigError for an unknown order.
    """
    ranks = list(range(num_classes))
    if order == "random":
        random.Random(f"long-tail class order {seed}").shuffle(ranks)
    elif order != "label":
        raise ConfigError(f"DATASET.CLASS_ORDER is {order!r}: choose one of {', '.join(CLASS_ORDERS)}")
    return ranks


def long_tail_subset(
    items: Sequence[Item],
    tau: float,
    order: str = "label",
    max_per_class: int | None = 16,
    seed: int = 0,
    label: Callable[[Item], Any] = attrgetter("label"),
    num_classes: int | None = None,
) -> tuple[list[Item], LongTail]:
    """Keep, of each class, the first n_r items (r its rank, n_r from `shot_counts`), in the given order.

    A smaller tau therefore keeps a subset of what a larger one keeps. A class never loses its last
    item; one with fewer than n_r items keeps them all. tau = 1 keeps everything, `max_per_class` or not.
    Without `max_per_class` it is the number of items of the largest class.
    Labels are 0..K-1; K is `num_classes`, by default the largest label + 1.

    Raises ConfigError for a bad tau, order or count, DataError for no items, or labels that are not
    whole numbers in 0..K-1.
    """
    labels = [_whole(label(item)) for item in items]
    num_classes = _check_labels(labels, num_classes)
    ranks = class_ranks(num_classes, order, seed)
    largest = max(Counter(labels).values()) if max_per_class is None else max_per_class
    by_rank = shot_counts(num_classes, tau, largest)
    allowed = [len(items) if tau == 1 else by_rank[rank] for rank in ranks]

    kept: list[Item] = []
    counts: Counter[int] = Counter()
    for item, item_label in zip(items, labels, strict=True):
        if counts[item_label] < allowed[item_label]:
            counts[item_label] += 1
            kept.append(item)
    per_class = tuple(counts[number] for number in range(num_classes))
    return kept, LongTail(tau, realized_tau(per_class), per_class, tuple(ranks), order)


def realized_tau(counts: Iterable[int]) -> float:
    """Fewest over most images of the classes that have any."""
    present = [count for count in counts if count]
    return min(present) / max(present)


def _check_tau(tau: float) -> None:
    if not 0 < tau <= 1:
        raise ConfigError(
            f"DATASET.IMBALANCE_TAU is {tau}: give the ratio min / max images a class, "
            "above 0 and at most 1 (1 = balanced)"
        )


def _whole(label: Any) -> int:
    try:
        return index(label)
    except TypeError:
        raise DataError(f"the label {label!r} is no whole number: number the classes 0, 1, 2, ...") from None


def _check_labels(labels: Sequence[int], num_classes: int | None) -> int:
    if not labels:
        raise DataError("the training set is empty: there is nothing to take a long tail of")
    known = max(labels) + 1 if num_classes is None else num_classes
    bad = sorted({value for value in labels if not 0 <= value < known})
    if bad:
        raise DataError(f"labels {bad[:5]} lie outside 0..{known - 1}: relabel, or give num_classes")
    return known
