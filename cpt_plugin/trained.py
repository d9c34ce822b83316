"""Which classes were trained, with how many images each: looked up by name for the classes that are evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def counts_by_name(evaluated: Sequence[str], trained: Sequence[str], counts: Sequence[int]) -> list[int | None]:
    """Training images of each evaluated class.

    None for a class that was not trained, or whose name does not tell: several trained classes have it that differ in
    their number of images, or more evaluated classes than trained ones have it, so that some were not trained. Equal
    lists are matched by place, names that occur twice among them.

    Args:
        evaluated: names of the classes that are evaluated, by label.
        trained: names of the classes that were trained, by label.
        counts: training images of each of these.
    """
    if list(evaluated) == list(trained):
        return list(counts)
    images: dict[str, set[int]] = {}
    for name, count in zip(trained, counts, strict=True):
        images.setdefault(name, set()).add(count)
    times, times_trained = Counter(evaluated), Counter(trained)
    certain = {
        name: next(iter(found))
        for name, found in images.items()
        if len(found) == 1 and times[name] <= times_trained[name]
    }
    return [certain.get(name) for name in evaluated]
