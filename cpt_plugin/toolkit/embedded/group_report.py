"""Accuracy of the frequent and the rare classes of a long-tailed data set, logged after an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cpt_plugin.results.groups import BANDS, FEW_SHOT_BANDS, THIRDS, group_accuracies, worst_class
from cpt_plugin.toolkit.embedded.logs import LOGGER


def report_groups(dm: Any, evaluator: Any, counts: Sequence[int | None]) -> dict[str, float]:
    """Log and return the accuracies of the groups (percent, by name; empty groups left out).

    Only where classes have different numbers of training images, or the data set says by ``bands`` what it calls many,
    medium and few (see :func:`cpt_plugin.results.groups.group_accuracies`).

    Args:
        dm: data manager of what was evaluated.
        evaluator: with the results of every class.
        counts: images that each class was trained on; None for a class that was not, which is left out.
    """
    bands = getattr(getattr(dm, "dataset", None), "bands", None)
    trained = {label: count for label, count in enumerate(counts) if count is not None}
    balanced = bands is None and len(set(trained.values())) == 1
    if balanced or not any(trained.values()) or not hasattr(evaluator, "class_counts"):
        return {}
    bands = bands or FEW_SHOT_BANDS
    every = evaluator.class_counts()
    tested = [every[label] for label in trained]
    groups = group_accuracies(tested, list(trained.values()), bands)
    meaning = {
        "many": f"{bands.many_from} training images or more",
        "medium": f"{bands.few_up_to + 1} to {bands.many_from - 1}",
        "few": f"{bands.few_up_to} or fewer",
        **dict.fromkeys(THIRDS, "a third of the classes by training images"),
    }
    lines = ["=> groups (mean of the classes' accuracies)"]
    for name in (*BANDS, *THIRDS):
        accuracy = groups[name].accuracy
        shown = "-" if accuracy is None else f"{accuracy:.1f}%"
        lines.append(f"* {name}: {shown} ({groups[name].classes} classes; {meaning[name]})")
    if worst := worst_class([dm.dataset.classnames[label] for label in trained], tested):
        lines.append(f"* worst class: {worst.accuracy:.1f}% ({worst.name})")
    LOGGER.info("\n".join(lines))
    return {name: group.accuracy for name, group in groups.items() if group.accuracy is not None}
