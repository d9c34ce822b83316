"""Which classes were trained, with how many images each: looked up by name for the classes that are evaluated."""

from __future__ import annotations

from collections.abc import Sequence

from cpt_plugin._names import some
from cpt_plugin.errors import DataError


def counts_by_name(
    evaluated: Sequence[str], trained: Sequence[str], counts: Sequence[int]
) -> list[int | None]:
    """Training images of each evaluated class; None for one that was not trained.

    Args:
        evaluated: names of the classes that are evaluated, by label.
        trained: names of the classes that were trained, by label.
        counts: training images of each of these.

    Raises:
        DataError: an evaluated class has the name of several trained ones that differ in their number of images.
    """
    if list(evaluated) == list(trained):
        return list(counts)
    images: dict[str, set[int]] = {}
    for name, count in zip(trained, counts, strict=True):
        images.setdefault(name, set()).add(count)
    ambiguous = [name for name in dict.fromkeys(evaluated) if len(images.get(name, ())) > 1]
    if ambiguous:
        raise DataError(
            f"{some(list(map(repr, ambiguous)))}: several classes of that name were trained, with different numbers of "
            "images, so a name does not tell which one is meant: give the classes names of their own, or evaluate the "
            "classes of the training run, in their order"
        )
    return [next(iter(images[name])) if name in images else None for name in evaluated]
